// Newest runs, one run, two runs side by side.
import { h } from '../dom.js';
import { milliseconds, number, percent } from '../format.js';
import { empty, panel, table, tag, when } from '../parts.js';

export const filters = ['span'];
const verdict = (status) => tag(status || '–', /fail|error|timed/.test(status) ? 'bad' : /flaky|retried|interrupt/.test(status) ? 'warn' : /pass/.test(status) ? 'good' : '');

export function render(about) {
  const run = about.asked.get('run');
  const other = about.asked.get('with');
  if (run && other) return side_by_side(about, run, other);
  if (run) return one(about, run);
  return panel('Newest runs', 'tick two to compare them', async () => {
    const told = await about.figure('runs');
    if (!told.list.length) return { source: told, content: empty('No run in this span', 'Runs appear when metrics carry a run_id; the pytest plugin and the importers set it.') };
    const ticked = new Set();
    const button = h('button', { type: 'button', disabled: true, onclick: () => { const [a, b] = [...ticked]; about.go({ run: a, with: b }); } }, 'Compare');
    const tick = (row) => h('input', { type: 'checkbox', 'aria-label': `compare ${row.run_id}`, onchange: (event) => { if (event.target.checked) ticked.add(row.run_id); else ticked.delete(row.run_id); button.disabled = ticked.size !== 2; } });
    return { source: told, content: [h('p', { class: 'row' }, button), table(told.list, [
      ['', tick], ['Run', (row) => about.linked({ run: row.run_id }, row.run_id), { wide: true }], ['Branch', (row) => row.branch || '–'], ['Commit', (row) => (row.commit || '–').slice(0, 10)], ['Started', (row) => when(row.started)],
      ['Verdict', (row) => (row.failed ? tag(`${row.failed} failed`, 'bad') : tag('passed', 'good'))], ['Executions', (row) => number(row.executions), { numeric: true }], ['Flaky', (row) => number(row.flaky), { numeric: true }], ['Skipped', (row) => number(row.skipped), { numeric: true }], ['Took', (row) => milliseconds(row.duration_ms), { numeric: true }], ['', (row) => (row.is_final ? '' : h('span', { class: 'tag', title: 'no row for a while (runs.grace_s) makes a run final; until then its counts may grow' }, 'not final'))],
    ], 'Newest runs', { tall: true })] };
  });
}

function one(about, run) {
  return [h('p', {}, about.linked({ run: '' }, '← All runs'), ` · ${run}`), panel('What ran', 'failed and retried first', async () => {
    const [told, twins] = await Promise.all([about.figure('run_tests', { run }), about.figure('run_twins', { run })]);
    const twice = twins.list.map((row) => h('p', {}, tag('fed twice', 'warn'), ` ${row.job} and ${row.other} hold the same ${number(row.tests)} executions`));
    return { source: told, content: told.list.length ? [...twice, table(told.list, [
      ['Test', (row) => about.linked({ view: 'tests', suite: row.test_suite, test: row.test_id }, row.name || row.test_id), { wide: true }], ['Suite', (row) => row.test_suite], ['Environment', (row) => row.environment || '–'], ['Browser', (row) => row.browser], ['Verdict', (row) => verdict(row.verdict)], ['Attempts', (row) => number(row.attempts), { numeric: true }], ['Duration', (row) => milliseconds(row.duration_ms), { numeric: true }], ['Error', (row) => row.error || '–', { wide: true }],
    ], 'What ran', { tall: true })] : empty('Nothing of this run in this span', 'Choose a longer span.') };
  })];
}

function side_by_side(about, left, right) {
  const side = (verdict_of, ms) => (verdict_of ? [verdict(verdict_of), ' ', /skip/.test(verdict_of) ? '' : milliseconds(ms)] : 'did not run');
  const signed = (share) => `${share > 0 ? '+' : ''}${percent(share, 0)}`;
  return [h('p', {}, about.linked({ with: '' }, '← One run'), ` · ${left} and ${right}`), panel('Side by side', 'other verdicts first, then the largest changes of duration', async () => {
    const told = await about.figure('run_pair', { run: left, other: right });
    return { source: told, content: told.list.length ? table(told.list, [
      ['Test', (row) => about.linked({ view: 'tests', suite: row.test_suite, test: row.test_id }, row.name || row.test_id), { wide: true }], ['Suite', (row) => row.test_suite], ['Environment', (row) => row.environment || '–'], ['Browser', (row) => row.browser],
      [left, (row) => side(row.left_verdict, row.left_ms), { numeric: true }], [right, (row) => side(row.right_verdict, row.right_ms), { numeric: true }],
      ['Change', (row) => (row.change === null ? '–' : signed(row.change)), { numeric: true, hint: 'of the duration, where both passed' }],
    ], 'Side by side', { tall: true }) : empty('Nothing to compare in this span', 'Choose a longer span.') };
  })];
}
