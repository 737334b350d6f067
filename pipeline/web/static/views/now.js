// What is going on, live; what is wrong stands on top with its fix.
import { spark } from '../charts.js';
import { fill, h } from '../dom.js';
import { bytes, exact, number, seconds } from '../format.js';
import { empty, tag } from '../parts.js';

const CARDS = [
  ['stored_per_s', 'Stored per second', (told) => [number(told.stored_per_s), ' rows/s'], 'Rows acknowledged, from the ledger in Redis, over the last looks', () => ''],
  ['freshness_s', 'Freshness', (told) => [seconds(told.newest_row_age_s), ''], 'Time since the newest row was stored (table metrics, ingested_at)', (told) => (told.newest_row_age_s > 120 ? 'warn' : '')],
  ['waiting', 'Waiting', (told) => [number(told.waiting), ' items'], 'Items in the buffer (LLEN), not sealed yet', (told) => (Object.values(told.fills || {}).some((of) => of.rows?.passed) ? 'bad' : '')],
  ['dead_lettered', 'Dead letters', (told) => [number(told.dead_letters_open), ' open'], 'Refused items, neither replayed nor dropped (view dead_letters_open); the line: all since the ledger began', () => ''],
  ['unaccounted', 'Unaccounted', (told) => [exact(told.unaccounted), ''], 'sealed − stored − dead_lettered − in_flight − spilled − dropped − lost − set_aside; 0 unless something is wrong', (told) => (told.unaccounted === 0 ? 'good' : told.unaccounted ? 'bad' : '')],
  ['firing', 'Alerts firing', (told) => [number(told.alerts.firing || 0), told.alerts.pending ? ` ${told.alerts.pending} pending` : ''], 'Alerts whose last transition leads to firing (view alerts_now)', (told) => (told.alerts.firing ? 'bad' : 'good')],
  ['job_lag_s', 'Job lag', (told) => [seconds(told.job_lag_s), ''], 'How long after its time the latest scheduled job is', (told) => (told.job_lag_s > 60 ? 'warn' : '')],
  ['redis_memory_bytes', 'Redis memory', (told) => [bytes(told.redis_memory_bytes), told.redis_memory_pct ? ` ${told.redis_memory_pct} %` : ''], 'used_memory of Redis, and its share of maxmemory', () => ''],
];

export function render(about) {
  const wrong = h('section', { class: 'panel is-loading', tabindex: 0, role: 'region', 'aria-label': 'What is wrong', 'aria-live': 'polite' }, empty('Looking…', 'The first look at the pipeline takes a moment.'));
  const drawn = CARDS.map(([key, name, , meaning]) => {
    const value = h('div', { class: 'value' }, '–');
    const card = h('section', { class: 'card', title: meaning, 'aria-label': name }, h('div', { class: 'name' }, name), value, key ? h('div', { class: 'spark' }) : null);
    return { card, value, line: null };
  });
  const books = h('div', {});
  const jobs = h('div', {});
  about.live((told) => {
    if (!told.at_ms) return;
    fill(wrong, troubles(told, wrong, about));
    CARDS.forEach(([key, name, shown, , mood], index) => {
      const { card, value } = drawn[index];
      const [big, small] = shown(told);
      fill(value, big, small ? h('small', {}, small) : null);
      card.className = `card ${mood(told)}`;
      if (!key || !told.history?.at.length) return;
      const values = told.history[key];
      if (drawn[index].line) drawn[index].line.update(told.history.at, values);
      else { drawn[index].line = spark(told.history.at, values, `${name}, the last hour`); card.lastChild.replaceWith(drawn[index].line); }
    });
    fill(books, ledger(told));
    fill(jobs, schedule(told));
  });
  return [h('div', { class: 'outlook' }, wrong, h('div', { class: 'cards' }, drawn.map(({ card }) => card))),
    h('div', { class: 'two' },
      h('section', { class: 'panel', 'aria-label': 'The books' }, h('header', {}, h('h2', {}, 'The books'), h('span', { class: 'hint' }, 'every item since it was sealed')), books),
      h('section', { class: 'panel', 'aria-label': 'Jobs' }, h('header', {}, h('h2', {}, 'Jobs and loops'), h('span', { class: 'hint' }, 'of this process')), jobs))];
}

function troubles(told, section, about) {
  const said = (told.trouble || []).map((text) => h('li', {}, text));
  const found = told.findings.map((one) => h('li', {}, h('strong', {}, `${one.check}: `), one.detail, one.fix ? h('span', { class: 'fix' }, ` — fix: ${one.fix}`) : null));
  const bad = said.length || told.findings.some((one) => one.severity === 'bad');
  section.className = `panel ${bad ? 'wrong' : found.length ? 'wrong warn' : 'fine'}`;
  const firing = told.alerts.firing ? h('p', {}, about.linked({ view: 'alerts' }, `${told.alerts.firing} alert${told.alerts.firing === 1 ? '' : 's'} firing`)) : null;
  if (!bad && !found.length) return [h('strong', {}, 'The pipeline is well.'), h('span', { class: 'hint' }, ` Seen ${seconds(told.age_s)} ago.`), firing];
  return [h('strong', {}, bad ? 'Something is wrong' : 'Worth a look'), h('ul', {}, said, found), firing];
}

function ledger(told) {
  const rows = [['sealed', 'taken from the buffer'], ['stored', 'rows in metrics'], ['dead_lettered', 'refused, with a reason'], ['in_flight', 'being drained'], ['spilled', 'in files on disk'], ['dropped', 'by the overflow policy'], ['lost', 'gone with damaged segments'], ['set_aside', 'waits for a person'], ['unaccounted', 'nowhere']];
  return scrolled('The books, table', h('tbody', {}, rows.map(([key, meaning]) => h('tr', {}, h('th', { scope: 'row' }, key.replace('_', ' ')), h('td', { class: 'hint' }, meaning), h('td', { class: 'n' }, key === 'unaccounted' && told[key] === 0 ? tag('0', 'good') : exact(told[key]))))));
}

function schedule(told) {
  const jobs = Object.entries(told.jobs || {});
  if (!jobs.length) return empty('No jobs here', 'This process holds no schedule.');
  return scrolled('Jobs, table', h('thead', {}, h('tr', {}, ['job', 'turns', 'failed', 'took', 'began'].map((name, index) => h('th', { scope: 'col', class: index ? 'n' : null }, name)))), h('tbody', {}, jobs.map(([name, job]) => h('tr', {}, h('td', {}, name, job.trouble ? [' ', tag(job.trouble, 'bad long')] : null, job.overdue ? [' ', tag('overdue', 'warn')] : null), h('td', { class: 'n' }, number(job.turns)), h('td', { class: 'n' }, number(job.failures)), h('td', { class: 'n' }, seconds(job.last_took_s)), h('td', { class: 'n' }, `${seconds(job.began_s_ago)} ago`)))));
}

const scrolled = (label, ...parts) => h('div', { class: 'scroll tall', tabindex: 0, role: 'region', 'aria-label': label }, h('table', {}, parts));
