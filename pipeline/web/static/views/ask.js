// A question in SQL, its answer as table and chart, to download and to share.
import { call, fetched, post } from '../api.js';
import { lines } from '../charts.js';
import { fill, h } from '../dom.js';
import { decimal, number, plain } from '../format.js';
import { empty, failed, loading, panel, table, when } from '../parts.js';

const PARAMETER = /\{(\w+):[^{}]+\}/g;
const PLACES = { since: '7d', until: 'now', run_id: 'a run', test_id: 'a test' };
const FIRST = 'SELECT test_suite, sum(total) AS executions, round(sum(passed) / sum(total), 3) AS pass_rate\nFROM metrics_5min\nWHERE metric_type = \'duration\'\nGROUP BY test_suite\nORDER BY pass_rate';

export function render(about) {
  const box = h('textarea', { id: 'sql', spellcheck: 'false', 'aria-label': 'SQL', onkeydown: (event) => { if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) { event.preventDefault(); run(); } } });
  box.value = about.asked.get('sql') || FIRST;
  const answer = h('div', { 'aria-live': 'polite' }, empty('Ask something', 'Ctrl+Enter runs it. Questions only: nothing can be changed from here.'));
  const fields = h('div', { class: 'row', role: 'group', 'aria-label': 'Parameters' });
  const given = () => Object.fromEntries([...fields.querySelectorAll('input')].map((one) => [one.name, one.value.trim()]));
  // One field for each {name:Type} of the question; what was typed stays.
  const draw = (defaults) => {
    const kept = { ...defaults, ...given() };
    const names = [...new Set([...box.value.matchAll(PARAMETER)].map((found) => found[1]))];
    fill(fields, names.map((name) => h('label', { class: 'field' }, name, h('input', { name, value: kept[name] ?? '', size: 12, placeholder: PLACES[name] || 'all', onkeydown: (event) => { if (event.key === 'Enter') run(); } }))));
  };
  const choose = (event) => {
    const query = about.session.queries.find((one) => one.name === event.target.value);
    if (!query) return;
    box.value = query.sql;
    fill(fields);
    draw(Object.fromEntries(query.parameters.map((one) => [one.name, one.default ?? ''])));
    fill(answer, empty(query.name.replaceAll('_', ' '), query.sentence));
    if (query.parameters.every((one) => one.default !== null)) run();
  };
  const named = h('select', { 'aria-label': 'A ready question', onchange: choose }, h('option', { value: '' }, 'A ready question…'), about.session.queries.map((one) => h('option', { value: one.name, title: one.sentence }, one.name.replaceAll('_', ' '))));
  const asked = (prefix) => Object.entries(given()).map(([name, value]) => [`${prefix}${name}`, value]);
  const refused = (error) => (error.status === 422 || error.status === 400 ? h('pre', { class: 'error', tabindex: 0 }, error.message) : failed(error));
  // Fetched, not gone to: what is wrong with the question is said here, and the question stays.
  const save = async (format, signal) => {
    const file = await fetched(`/api/download?${new URLSearchParams([['sql', box.value], ['format', format], ...asked('param_')])}`, { signal });
    const address = URL.createObjectURL(await file.blob());
    h('a', { href: address, download: /filename="(.+)"/.exec(file.headers.get('content-disposition'))[1] }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60000);
    return empty('Saved', 'The browser has the file.');
  };
  const link = (format, name) => h('button', { type: 'button', onclick: () => attempt((signal) => save(format, signal)) }, name);
  const keep = () => history.replaceState(null, '', `?${new URLSearchParams([['view', 'ask'], ['sql', box.value], ...asked('param_')])}`);
  const share = h('button', { type: 'button', onclick: async () => { keep(); try { await navigator.clipboard.writeText(location.href); share.textContent = 'Link copied'; } catch { share.textContent = 'The link is in the address bar'; } } }, 'Link to share');
  box.addEventListener('input', () => draw({}));
  draw(Object.fromEntries([...about.asked].filter(([name]) => name.startsWith('param_')).map(([name, value]) => [name.slice(6), value])));

  // One at a time: what is asked next ends what runs, here and in ClickHouse, and so does leaving.
  let running = null;
  about.signal.addEventListener('abort', () => running?.abort());
  async function attempt(work) {
    running?.abort();
    const mine = (running = new AbortController());
    fill(answer, loading(), h('p', { class: 'row' }, h('button', { type: 'button', onclick: () => { mine.abort(); fill(answer, empty('Stopped', 'ClickHouse was told to end it.')); } }, 'Stop')));
    let shown;
    try { shown = await work(mine.signal); } catch (error) { shown = refused(error); }
    if (!mine.signal.aborted) fill(answer, shown);
  }
  function run() {
    keep();
    return attempt(async (signal) => result(await post('/api/ask', { sql: box.value, parameters: given() }, signal)));
  }

  if (about.asked.get('sql')) run();
  return h('div', { class: 'ask' },
    h('section', { class: 'panel', 'aria-label': 'Question' }, box, fields, h('p', { class: 'row' }, h('button', { class: 'main', type: 'button', onclick: run }, 'Run'), named, link('CSVWithNames', 'CSV'), link('Parquet', 'Parquet'), share), answer),
    panel('Tables and views', about.session.database, async () => {
      const { tables } = await call('/api/schema', { signal: about.signal });
      return { content: tables.length ? h('div', { class: 'schema', tabindex: 0, role: 'region', 'aria-label': 'Columns' }, tables.map((one) => h('details', {}, h('summary', { title: one.comment || null }, one.name), one.comment ? h('p', { class: 'hint' }, one.comment) : null, h('ul', {}, one.columns.map((column) => h('li', { title: column.comment || null }, h('b', {}, column.name), ` ${column.type}`)))))) : empty('No tables', 'Run pipeline migrate.') };
    }));
}

function result(told) {
  if (!told.rows.length) return empty('No rows', `Asked in ${told.took_ms} ms.`);
  const said = `${told.row_count.toLocaleString('en')} row${told.row_count === 1 ? '' : 's'} in ${told.took_ms} ms${told.row_count > told.rows.length ? `, the first ${number(told.rows.length)} shown; CSV and Parquet have all` : ''}`;
  const cell = (index) => (row) => { const value = row[index]; if (value === null) return h('span', { class: 'hint' }, 'null'); if (told.kinds[index] === 'time') return when(value); if (typeof value === 'number') return plain(value); return typeof value === 'object' ? JSON.stringify(value) : String(value); };
  return [h('p', { class: 'hint' }, said), chart(told), table(told.rows, told.columns.map((name, index) => [name, cell(index), { numeric: told.kinds[index] === 'number', wide: told.kinds[index] === 'text' }]), 'Answer', { tall: true })];
}

// A time and at least one number make a chart.
function chart(told) {
  const typed = told.kinds.findIndex((kind) => kind === 'time' || kind === 'day');
  const time = typed >= 0 ? typed : told.columns.findIndex((name, index) => told.kinds[index] === 'number' && /window_start|minute|hour|^at$/.test(name));
  if (time < 0) return null;
  // A day begins at the reader's midnight, so that its point stands below its own name.
  const seconds = (value) => (value === null ? null : told.kinds[time] === 'day' ? new Date(`${value}T00:00`) / 1000 : told.kinds[time] === 'time' || value > 1e11 ? value / 1000 : value);
  const rows = told.rows.filter((row) => Number.isFinite(seconds(row[time]))).sort((a, b) => seconds(a[time]) - seconds(b[time]));
  if (rows.length < 3) return null;
  const numbers = told.columns.map((_, index) => index).filter((index) => index !== time && told.kinds[index] === 'number').slice(0, 4);
  if (!numbers.length || new Set(rows.map((row) => row[time])).size !== rows.length) return null;
  const colours = ['--accent', '--good-fill', '--warn-fill', '--bad-fill'];
  // Decimals and large integers come as text, which keeps every digit.
  const height = (value) => (value === null ? null : Number(value));
  return lines(rows.map((row) => seconds(row[time])), numbers.map((index, at) => ({ name: told.columns[index], values: rows.map((row) => height(row[index])), colour: colours[at], format: decimal })), { label: `${numbers.map((index) => told.columns[index]).join(', ')} over time`, format: decimal });
}
