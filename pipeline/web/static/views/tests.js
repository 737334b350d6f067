// Pass rate and duration by suite; slowest, most regressed, flakiest; one test's history.
import { lines } from '../charts.js';
import { h } from '../dom.js';
import { milliseconds, number, percent } from '../format.js';
import { empty, panel, table, tag, when } from '../parts.js';

export const filters = ['span', 'environment', 'browser', 'suite'];
const nothing = () => empty('No test ran in this span', 'Choose a longer span, or other filters. Tests come as metrics of type “duration”.');

export function render(about) {
  if (about.asked.get('test')) return one(about);
  const open = (row) => about.linked({ view: 'tests', suite: row.test_suite, test: row.test_id }, row.name || row.test_id || row.test_suite);
  return [
    panel('Pass rate and duration', 'all tests that the filters leave', async () => {
      const told = await about.figure('durations');
      return { source: told, content: told.list.length ? overview(told.list) : nothing() };
    }),
    panel('Suites', 'the lowest pass rate first', async () => {
      const told = await about.figure('suites');
      return { source: told, content: told.list.length ? table(told.list, [
        ['Suite', (row) => (row.test_suite ? about.linked({ suite: row.test_suite }, row.test_suite) : '(no suite)')],
        ['Passed', (row) => rate(row.pass_rate), { numeric: true, hint: 'passed ÷ executions; skipped and retried attempts do not count' }],
        ['Executions', (row) => number(row.executions), { numeric: true }],
        ['Failed', (row) => number(row.failures), { numeric: true }],
        ['Flaky', (row) => number(row.flaky_executions), { numeric: true, hint: 'passed after a retry' }],
        ['Tests', (row) => number(row.tests), { numeric: true }],
        ['p50', (row) => milliseconds(row.p50_ms), { numeric: true }],
        ['p95', (row) => milliseconds(row.p95_ms), { numeric: true }],
      ], 'Suites') : nothing() };
    }),
    h('div', { class: 'two' },
      panel('Slowest tests', 'by 95th percentile', async () => {
        const told = await about.figure('slowest');
        return { source: told, content: told.list.length ? table(told.list, [['Test', open, { wide: true }], ['Suite', (row) => row.test_suite], ['Browser', (row) => row.browser], ['p50', (row) => milliseconds(row.p50_ms), { numeric: true }], ['p95', (row) => milliseconds(row.p95_ms), { numeric: true }]], 'Slowest tests') : nothing() };
      }),
      panel('Most regressed', 'where a level got worse', async () => {
        const told = await about.figure('regressed');
        return { source: told, content: told.list.length ? table(told.list, [['What', (row) => (row.test_id ? open(row) : row.page || row.test_suite || row.metric_type), { wide: true }], ['Metric', (row) => row.metric_type], ['Change', (row) => tag(`+${Math.abs(row.change_pct).toFixed(0)} %`, 'bad'), { numeric: true }], ['From → to', (row) => `${number(row.level_before)} → ${number(row.level_after)}`, { numeric: true }], ['Since', (row) => when(row.changed_at)]], 'Most regressed') : empty('No regression in this span', 'A change is reported once it stands out from the noise of its series.') };
      })),
    panel('Flakiest tests', 'passed only after a retry, or back and forth on one commit', async () => {
      const told = await about.figure('flakiest');
      const { from, since } = told.parameters;
      const bound = since > from ? h('p', { class: 'hint' }, 'Back and forth on one commit: among the newest 25,000 executions, since ', when(since * 1000), '. Before that, only executions marked flaky.') : null;
      return { source: told, content: [bound, told.list.length ? table(told.list, [
        ['Test', open, { wide: true }], ['Suite', (row) => row.test_suite], ['Browser', (row) => row.browser],
        ['Flakiness', (row) => percent(row.flakiness), { numeric: true, hint: 'executions that needed a retry, and changes on one commit, ÷ executions' }],
        ['Passed after retry', (row) => number(row.passed_after_retry), { numeric: true }],
        ['Changes on one commit', (row) => number(row.changes_on_one_commit), { numeric: true, hint: 'from passed to failed or back while the commit stayed the same' }],
        ['Retried attempts', (row) => number(row.retried_attempts), { numeric: true }], ['Failed', (row) => number(row.failures), { numeric: true }], ['Executions', (row) => number(row.executions), { numeric: true }],
      ], 'Flakiest tests') : empty('No flaky test in this span', 'No test passed only after a retry, and none went back and forth on one commit.')] };
    }),
  ];
}

const rate = (share) => (share === null ? '–' : tag(percent(share), share >= 0.99 ? 'good' : share >= 0.9 ? 'warn' : 'bad'));

function overview(list) {
  const at = list.map((row) => row.at);
  const last = list.at(-1);
  return lines(at, [
    { name: 'p95', values: list.map((row) => row.p95_ms), colour: '--warn-fill', format: milliseconds },
    { name: 'p50', values: list.map((row) => row.p50_ms), format: milliseconds, fill: true },
    { name: 'pass rate', values: list.map((row) => row.pass_rate), colour: '--good-fill', scale: 'z', format: percent },
  ], { label: `Duration and pass rate over time; the newest: median ${milliseconds(last.p50_ms)}, 95th percentile ${milliseconds(last.p95_ms)}, ${percent(last.pass_rate)} passed`, format: milliseconds, scale2: { range: [0, 1], format: (share) => percent(share, 0) } });
}

function one(about) {
  const test = about.asked.get('test');
  const values = { test, suite: about.values.suite };
  return [
    h('p', {}, about.linked({ view: 'tests', test: '' }, '← All tests'), ` · ${about.values.suite || '(no suite)'} · ${test}`),
    panel('Duration over time', 'the band is what is normal; dashed lines are changes of level; choose environment and browser to compare like with like', async () => {
      const [told, normal, changes] = await Promise.all([about.figure('test_windows', values), about.figure('test_baseline', values), about.figure('test_changes', values)]);
      const list = told.list;
      if (!list.length) return { source: told, content: nothing() };
      const at = list.map((row) => row.at);
      const base = normal.list[0];
      const level = (shift) => (base && base.centre !== null ? at.map(() => Math.max(0, base.centre + shift * (base.spread || 0))) : at.map(() => null));
      const series = [
        { name: 'normal, upper', values: level(3), width: 0, format: milliseconds, colour: '--accent' },
        { name: 'normal, lower', values: level(-3), width: 0, format: milliseconds, colour: '--accent' },
        { name: 'median', values: list.map((row) => row.p50_ms), format: milliseconds, points: true },
        { name: 'failed', values: list.map((row) => (row.failures ? row.p50_ms : null)), colour: '--bad-fill', points: true, size: 10, width: 0, format: milliseconds },
      ];
      const chart = lines(at, series, { label: `Median duration of ${test} over time, ${changes.list.length} changes of level, ${list.filter((row) => row.failures).length} windows with failures`, format: milliseconds, bands: [[1, 2]], marks: changes.list.map((change) => ({ at: change.at, colour: change.direction === 'regression' ? '--bad-fill' : '--good-fill' })) });
      const said = base ? h('p', { class: 'hint' }, `Normal in ${[base.environment, base.browser].filter(Boolean).join(', ') || 'all'}: ${milliseconds(base.centre)} ± ${milliseconds(base.spread)} from ${number(base.runs)} runs (${base.state.replace('_', ' ')}), ${percent(base.success_rate)} passed.`) : h('p', { class: 'hint' }, 'No baseline yet: it takes 12 runs.');
      return { source: told, content: [chart, said] };
    }),
    panel('Attempts', 'the newest fifty, each attempt shown', async () => {
      const told = await about.figure('test_attempts', values);
      return { source: told, content: told.list.length ? table(told.list, [['When', (row) => when(row.timestamp)], ['Status', (row) => tag(row.status || '–', /fail|error|timed/.test(row.status) ? 'bad' : /flaky|retried/.test(row.status) ? 'warn' : /pass/.test(row.status) ? 'good' : '')], ['Duration', (row) => milliseconds(row.duration_ms), { numeric: true }], ['Attempt', (row) => row.attempt || '–', { numeric: true }], ['Browser', (row) => row.browser], ['Environment', (row) => row.environment], ['Run', (row) => (row.run_id ? about.linked({ view: 'runs', run: row.run_id }, row.run_id) : '–')], ['Error', (row) => row.error_type || '–']], 'Attempts') : nothing() };
    }),
  ];
}
