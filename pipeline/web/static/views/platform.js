// What is collected besides tests and vitals, the processes, and what the doctor finds.
import { fill, h } from '../dom.js';
import { decimal, number, seconds } from '../format.js';
import { empty, panel, table, tag, when } from '../parts.js';

export const filters = ['span', 'environment'];

export function render(about) {
  const processes = h('div', {}, empty('Looking…', ''));
  const found = h('div', {}, empty('Looking…', ''));
  const limits = h('div', {}, empty('Looking…', ''));
  const first = h('section', { class: 'panel is-loading', 'aria-label': 'Processes' }, h('header', {}, h('h2', {}, 'Processes'), h('span', { class: 'hint' }, 'as each said last')), processes);
  about.live((told) => {
    first.classList.remove('is-loading');
    const services = told.services || [];
    fill(processes, services.length ? table(services, [['Process', (one) => one.name], ['Role', (one) => one.role], ['Runs for', (one) => seconds(one.running_s), { numeric: true }], ['Stored', (one) => number(one.stored), { numeric: true }], ['Retries', (one) => number(one.retries), { numeric: true }], ['Fenced', (one) => number(one.fenced), { numeric: true, hint: 'chunks that another drainer took over' }], ['Schedule', (one) => (one.schedules ? tag('holds it', 'good') : '–')], ['Trouble', (one) => one.trouble || '–', { wide: true }]], 'Processes') : empty('No process says anything', 'Each writes a heartbeat to Redis every second.'));
    fill(found, told.findings.length ? table(told.findings, [['Check', (one) => one.check], ['Severity', (one) => tag(one.severity, one.severity === 'bad' ? 'bad' : 'warn')], ['Detail', (one) => one.detail, { wide: true }], ['Fix', (one) => one.fix, { wide: true }]], 'Findings') : empty('The doctor finds nothing', 'Redis, ClickHouse, clocks and disk are as the promises need them.'));
    const fills = Object.entries(told.fills || {}).flatMap(([buffer, of]) => Object.entries(of).map(([name, fill]) => ({ buffer, name, ...fill })));
    fill(limits, fills.length ? table(fills, [['Buffer', (one) => one.buffer], ['By', (one) => one.name.replace('_', ' ')], ['Now', (one) => decimal(one.value), { numeric: true }], ['Alarm above', (one) => decimal(one.limit), { numeric: true }], ['', (one) => (one.passed ? tag('passed', 'bad') : tag('below', 'good'))]], 'High-water marks') : empty('Nothing known', 'Redis does not answer.'));
  });
  return [
    h('div', { class: 'two' },
      first,
      h('section', { class: 'panel', 'aria-label': 'High-water marks' }, h('header', {}, h('h2', {}, 'High-water marks')), limits)),
    h('section', { class: 'panel', 'aria-label': 'Findings' }, h('header', {}, h('h2', {}, 'What the doctor finds'), h('span', { class: 'hint' }, 'looked at every minute')), found),
    panel('Collected metrics', 'every kind besides durations and vitals', async () => {
      const told = await about.figure('platform');
      return { source: told, content: told.list.length ? table(told.list, [['Metric', (row) => row.metric_type], ['Node', (row) => row.node || '–'], ['Endpoint', (row) => row.endpoint || '–', { wide: true }], ['Environment', (row) => row.environment || '–'], ['Newest mean', (row) => decimal(row.newest), { numeric: true }], ['p50', (row) => decimal(row.p50), { numeric: true }], ['p95', (row) => decimal(row.p95), { numeric: true }], ['Metrics', (row) => number(row.metrics), { numeric: true }], ['Newest window', (row) => when(row.newest_window * (row.newest_window < 1e11 ? 1000 : 1))]], 'Collected metrics', { tall: true }) : empty('Nothing was collected in this span', 'Queues, locks, workers and cost appear here once collectors or producers send them.') };
    }),
  ];
}
