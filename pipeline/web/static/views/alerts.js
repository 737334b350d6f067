// Firing, pending, history as a timeline; each with its evidence; silences from here.
import { call, post } from '../api.js';
import { h, svg } from '../dom.js';
import { decimal } from '../format.js';
import { empty, labels_text, panel, table, tag, when } from '../parts.js';

export const filters = ['span'];
const mood = (state) => (state === 'firing' ? 'bad' : state === 'pending' ? 'warn' : 'good');

export function render(about) {
  const chosen = about.asked.get('alert');
  return [
    chosen ? one(about, chosen) : null,
    panel('Now', 'firing first', async () => {
      const told = await about.figure('alerts_active');
      return { source: told, content: told.list.length ? table(told.list, [
        ['State', (row) => tag(row.state, mood(row.state))], ['Severity', (row) => row.severity], ['Alert', (row) => [h('strong', {}, row.rule), h('br'), row.message], { wide: true }], ['Labels', (row) => labels_text(row.labels), { wide: true }],
        ['Value', (row) => decimal(row.value), { numeric: true }], ['Threshold', (row) => decimal(row.threshold), { numeric: true }], ['Since', (row) => when(row.active_since)],
        ['', (row) => h('span', { class: 'row' }, h('button', { type: 'button', onclick: () => evidence(about, row) }, 'Evidence'), h('button', { type: 'button', onclick: () => silence(about, row) }, 'Silence'))],
      ], 'Alerts now', { tall: true }) : empty('Nothing is pending or firing', 'Rules are judged every few seconds; config/rules.yaml holds them.') };
    }),
    panel('Timeline', 'red: firing; yellow: pending', async () => {
      const told = await about.figure('alert_history');
      return { source: told, content: told.list.length ? timeline(told.list, about.values) : empty('No alert changed in this span', 'Choose a longer span to look further back.') };
    }),
    panel('History', 'the newest first', async () => {
      const told = await about.figure('alert_history');
      return { source: told, content: told.list.length ? table(told.list, [
        ['When', (row) => when(row.at)], ['Change', (row) => [tag(row.from_state, mood(row.from_state)), ' → ', tag(row.to_state, mood(row.to_state))]], ['Severity', (row) => row.severity], ['Alert', (row) => row.rule], ['What it says', (row) => row.message, { wide: true }], ['Value', (row) => decimal(row.value), { numeric: true }],
      ], 'History', { tall: true }) : empty('No alert changed in this span', '') };
    }),
    panel('Silences', 'alerts are judged and stored all the same, no notification is sent', async () => {
      const { silences } = await call('/api/silences', { signal: about.signal });
      return { content: silences.length ? table(silences, [
        ['Holds back', (one) => one.matchers.join(', '), { wide: true }], ['Until', (one) => when(Date.parse(one.ends_at))], ['Comment', (one) => one.comment || '–', { wide: true }],
        ['', (one) => h('button', { type: 'button', onclick: () => about.confirm_in('End this silence', h('p', {}, one.matchers.join(', ')), 'End it', async () => { await call(`/api/silences/${encodeURIComponent(one.id)}`, { method: 'DELETE' }); return 'Ended.'; }) }, 'End')],
      ], 'Silences') : empty('Nothing is silenced', 'Choose “Silence” beside an alert.') };
    }),
    panel('Maintenance windows', 'alerts of the environment are judged and stored, and told when the window ends', async () => {
      const { maintenance } = await call('/api/silences', { signal: about.signal });
      return { content: maintenance.length ? table(maintenance, [
        ['Environment', (one) => one.environment], ['From', (one) => when(Date.parse(one.starts_at))], ['Until', (one) => when(Date.parse(one.ends_at))],
        ['Now', (one) => (Date.parse(one.starts_at) <= Date.now() ? tag('lasts', 'warn') : tag('to come'))], ['Why', (one) => one.reason || '–', { wide: true }],
      ], 'Maintenance windows') : empty('No maintenance is planned', 'The platform sets maintenance:{environment} in Redis.') };
    }),
  ];
}

// Where links in notifications lead.
function one(about, alert) {
  return panel('This alert', 'every transition of it', async () => {
    const told = await about.figure('alert_one', { alert });
    const back = h('p', {}, about.linked({ alert: '' }, 'Show all alerts'));
    return { source: told, content: told.list.length ? [back, table(told.list, [
      ['When', (row) => when(row.at)], ['Change', (row) => [tag(row.from_state, mood(row.from_state)), ' → ', tag(row.to_state, mood(row.to_state))]], ['Alert', (row) => [h('strong', {}, row.rule), h('br'), labels_text(row.labels)], { wide: true }], ['What it says', (row) => row.message, { wide: true }], ['Value', (row) => decimal(row.value), { numeric: true }], ['Threshold', (row) => decimal(row.threshold), { numeric: true }], ['', (row) => h('button', { type: 'button', onclick: () => evidence(about, { ...row, alert_id: alert }) }, 'Evidence')],
    ], 'This alert')] : [back, empty('There is no such alert', 'It may be older than what is kept.')] };
  });
}

function evidence(about, row) {
  let shown = row.evidence;
  try { shown = JSON.stringify(JSON.parse(row.evidence), null, 2); } catch { /* text as it is */ }
  const sql = `SELECT * FROM alerts WHERE alert_id = '${String(row.alert_id).replaceAll("'", "\\'")}' ORDER BY at DESC`;
  about.notice(row.rule, h('p', {}, row.message), h('pre', { tabindex: 0 }, shown || 'No evidence was kept.'), h('p', {}, about.linked({ view: 'ask', sql }, 'Ask for its transitions')));
}

function silence(about, row) {
  const matchers = [`alertname=${row.rule}`, ...Object.entries(row.labels || {}).map(([name, value]) => `${name}=${value}`)];
  about.confirm_in(`Silence ${row.rule}`, [
    h('label', {}, 'What to hold back (one a line)', h('textarea', { name: 'matchers', rows: 4 }, matchers.join('\n'))),
    h('label', {}, 'For', h('select', { name: 'hours' }, [[1, 'an hour'], [4, 'four hours'], [24, 'a day'], [168, 'a week']].map(([hours, name]) => h('option', { value: hours }, name)))),
    h('label', {}, 'Comment', h('input', { name: 'comment', maxlength: 200 })),
  ], 'Silence', async (form) => {
    await post('/api/silences', { matchers: form.get('matchers').split('\n').map((one) => one.trim()).filter(Boolean), duration_s: 3600 * Number(form.get('hours')), comment: form.get('comment') });
    return 'Silenced.';
  });
}

function timeline(list, { from, to }) {
  const alerts = new Map();
  for (const row of [...list].reverse()) {
    const key = row.alert_id;
    if (!alerts.has(key)) alerts.set(key, { name: row.rule, labels: labels_text(row.labels), steps: [] });
    alerts.get(key).steps.push(row);
  }
  const shown = [...alerts.values()].slice(-30).reverse();
  const x = (ms) => Math.max(0, Math.min(1000, (1000 * (ms / 1000 - from)) / (to - from)));
  return h('div', { class: 'scroll timeline', tabindex: 0, role: 'region', 'aria-label': 'Timeline, chart' }, h('table', {}, h('thead', {}, h('tr', {}, h('th', { scope: 'col' }, 'Alert'), h('th', { scope: 'col' }, h('span', { class: 'scale' }, [from, (from + to) / 2, to].map((at) => when(at * 1000)))))), h('tbody', {}, shown.map(({ name, labels, steps }) => {
    const pieces = steps.flatMap((step, index) => {
      if (step.to_state !== 'firing' && step.to_state !== 'pending') return [];
      const end = steps[index + 1]?.at ?? to * 1000;
      return [svg('rect', { x: x(step.at), y: 2, width: Math.max(3, x(end) - x(step.at)), height: 12, rx: 2, fill: step.to_state === 'firing' ? 'var(--bad-fill)' : 'var(--warn-fill)' })];
    });
    const said = `${name} ${labels}: ${steps.map((step) => `${new Date(step.at).toLocaleTimeString()} ${step.to_state}`).join(', ')}`;
    return h('tr', {}, h('td', { title: labels }, name, h('br'), h('span', { class: 'hint' }, labels)), h('td', { width: '65%' }, svg('svg', { viewBox: '0 0 1000 16', height: 16, preserveAspectRatio: 'none', role: 'img', 'aria-label': said }, ...pieces)));
  }))));
}
