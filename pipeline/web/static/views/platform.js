// What is collected besides tests and vitals, the processes, and what the doctor finds.
import { fill, h } from '../dom.js';
import { bytes, decimal, number, seconds } from '../format.js';
import { empty, panel, table, tag, when } from '../parts.js';

const UNIT = /_(bytes_per_s|bytes|pct|ms|per_s|s)$/;
const SHOWN = { bytes_per_s: (value) => `${bytes(value)}/s`, bytes, pct: (value) => `${decimal(value)} %`, ms: (value) => `${decimal(value)} ms`, per_s: (value) => `${decimal(value)}/s`, s: seconds };

const CALLED = {
  command_avg_ms: 'mean time of a command', connections: 'connections', connections_pct: 'connections, of maxclients', expired_keys_per_s: 'keys that expired',
  fragmentation_ratio: 'memory of the process ÷ memory used', keyspace_hit_pct: 'look-ups that found a key', keyspace_miss_pct: 'look-ups that found none',
  memory_bytes: 'memory', memory_pct: 'memory, of maxmemory or of the machine', network_bytes_per_s: 'network, in and out', replication_lag_s: 'slowest replica is behind',
  slow_query_avg_ms: 'mean time of slow commands, last minute',
};

/** A figure of Redis as people read it; its name ends with the unit. */
function withUnit({ name, value }) {
  return (SHOWN[UNIT.exec(name)?.[1]] || decimal)(value);
}

export const filters = ['span', 'environment'];

const measured = ({ name }, value) => (value === null || value === undefined ? '–' : name === 'age_s' ? seconds(value) : name === 'memory_pct' ? `${value.toFixed(value < 10 ? 2 : 0)} %` : number(value));

export function render(about) {
  const processes = h('div', { class: 'steady' }, empty('Looking…', ''));
  const found = h('div', { class: 'steady' }, empty('Looking…', ''));
  const limits = h('div', { class: 'steady' }, empty('Looking…', ''));
  const databases = h('div', { class: 'steady tall' }, empty('Looking…', ''));
  const figures = h('div', { class: 'steady tall' }, empty('Looking…', ''));
  const collectors = h('div', {}, empty('Looking…', ''));
  const first = h('section', { class: 'panel is-loading', 'aria-label': 'Processes' }, h('header', {}, h('h2', {}, 'Processes'), h('span', { class: 'hint' }, 'as each said last')), processes);
  about.live((told) => {
    first.classList.remove('is-loading');
    const services = told.services || [];
    fill(processes, services.length ? table(services, [['Process', (one) => one.name], ['Role', (one) => one.role], ['Runs for', (one) => seconds(one.running_s), { numeric: true }], ['Stored', (one) => number(one.stored), { numeric: true }], ['Retries', (one) => number(one.retries), { numeric: true }], ['Fenced', (one) => number(one.fenced), { numeric: true, hint: 'chunks that another drainer took over' }], ['Schedule', (one) => (one.schedules ? tag('holds it', 'good') : '–')], ['Trouble', (one) => one.trouble || '–', { wide: true }]], 'Processes') : empty('No process says anything', 'Each writes a heartbeat to Redis every second.'));
    fill(found, told.findings.length ? table(told.findings, [['Check', (one) => one.check], ['Severity', (one) => tag(one.severity, one.severity === 'bad' ? 'bad' : 'warn')], ['Detail', (one) => one.detail, { wide: true }], ['Fix', (one) => one.fix, { wide: true }]], 'Findings') : empty('The doctor finds nothing', 'Redis, ClickHouse, clocks and disk are as the promises need them.'));
    const fills = Object.entries(told.fills || {}).flatMap(([buffer, of]) => Object.entries(of).map(([name, fill]) => ({ buffer, name, ...fill })));
    fill(limits, fills.length ? table(fills, [['Buffer', (one) => one.buffer], ['By', (one) => ({ rows: 'rows waiting', age_s: 'age of the oldest', memory_pct: 'memory of Redis' }[one.name] || one.name)], ['Now', (one) => measured(one, one.value), { numeric: true }], ['Alarm above', (one) => measured(one, one.limit), { numeric: true }], ['', (one) => (one.passed ? tag('passed', 'bad') : tag('below', 'good'))]], 'High-water marks') : empty('Nothing known', 'Redis does not answer.'));
    const health = told.redis_health || { figures: {}, databases: [] };
    fill(databases, health.databases.length ? table(health.databases, [['Database', (one) => one.database, { numeric: true }], ['Holds', (one) => one.names.join(', ')], ['Keys', (one) => number(one.keys), { numeric: true }], ['With a TTL', (one) => number(one.expires), { numeric: true }], ['Mean TTL', (one) => (one.expires ? seconds(one.avg_ttl_s) : '–'), { numeric: true }]], 'Databases of Redis') : empty('Nothing known', 'Redis does not answer, or forbids INFO.'));
    const named = Object.entries(health.figures).map(([name, value]) => ({ name, value }));
    fill(figures, named.length ? table(named, [['Figure', (one) => CALLED[one.name] || one.name.replaceAll('_', ' ')], ['Now', (one) => withUnit(one), { numeric: true }]], 'Redis') : empty('Nothing known', 'Redis does not answer, or forbids INFO.'));
    const states = Object.entries(told.collect || {}).map(([name, one]) => ({ name, ...one }));
    fill(collectors, states.length ? table(states, [['Collector', (one) => one.name], ['Last look', (one) => when(one.last_ms)], ['Keys', (one) => number(one.keys), { numeric: true }], ['Metrics', (one) => number(one.items), { numeric: true }], ['Gaps', (one) => (one.gaps ? tag(number(one.gaps), 'warn') : '–'), { hint: 'a list slid too far between two looks, or the subscription to channels was lost' }], ['Trouble', (one) => (one.trouble ? one.trouble + (one.troubled_keys ? ` (${number(one.troubled_keys)} keys)` : '') : '–'), { wide: true }]], 'Collectors', { tall: true }) : empty('Nothing was found', told.collect ? 'The platform’s databases hold no key of the schema.' : 'No service has collected yet, or collect.enabled is off.'));
  });
  return [
    h('div', { class: 'two' },
      first,
      h('section', { class: 'panel', 'aria-label': 'High-water marks' }, h('header', {}, h('h2', {}, 'High-water marks')), limits)),
    h('section', { class: 'panel', 'aria-label': 'Findings' }, h('header', {}, h('h2', {}, 'What the doctor finds'), h('span', { class: 'hint' }, 'looked at every minute')), found),
    h('div', { class: 'two' },
      h('section', { class: 'panel', 'aria-label': 'Databases of Redis' }, h('header', {}, h('h2', {}, 'Databases of Redis'), h('span', { class: 'hint' }, 'what INFO keyspace says')), databases),
      h('section', { class: 'panel', 'aria-label': 'Redis' }, h('header', {}, h('h2', {}, 'Redis'), h('span', { class: 'hint' }, 'the server’s own figures')), figures)),
    panel('Collected metrics', 'every kind besides durations and vitals; values in the unit they were sent in', async () => {
      const told = await about.figure('platform');
      return { source: told, content: told.list.length ? table(told.list, [['Metric', (row) => row.metric_type], ['Node', (row) => row.node || '–'], ['Endpoint', (row) => row.endpoint || '–', { wide: true }], ['Environment', (row) => row.environment || '–'], ['Newest mean', (row) => decimal(row.newest), { numeric: true }], ['p50', (row) => decimal(row.p50), { numeric: true }], ['p95', (row) => decimal(row.p95), { numeric: true }], ['Metrics', (row) => number(row.metrics), { numeric: true }], ['Newest window', (row) => when(row.newest_window * (row.newest_window < 1e11 ? 1000 : 1))]], 'Collected metrics', { tall: true }) : empty('Nothing was collected in this span', 'Queues, locks, workers and cost appear here once collectors or producers send them.') };
    }),
    h('section', { class: 'panel', 'aria-label': 'Collectors' }, h('header', {}, h('h2', {}, 'Collectors'), h('span', { class: 'hint' }, 'what the last look at each kind of key found')), collectors),
  ];
}
