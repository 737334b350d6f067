// Refused items: why, samples, and replay with a look ahead at what would happen.
import { call, post } from '../api.js';
import { h } from '../dom.js';
import { number } from '../format.js';
import { empty, panel, table, tag, when } from '../parts.js';

export function render(about) {
  const reason = about.asked.get('reason') || '';
  return [
    panel('By reason', 'open ones: neither replayed nor dropped', async () => {
      const told = await about.figure('letters');
      return { source: told, content: told.list.length ? table(told.list, [
        ['Reason', (row) => about.linked({ reason: row.reason }, row.reason)], ['Items', (row) => number(row.items), { numeric: true }], ['Newest', (row) => when(row.newest)], ['An example', (row) => row.example, { wide: true }],
        ['', (row) => h('span', { class: 'row' }, h('button', { type: 'button', onclick: () => act(about, 'replay', row) }, 'Replay…'), h('button', { type: 'button', onclick: () => act(about, 'drop', row) }, 'Drop…'))],
      ], 'By reason', { tall: true }) : empty('No dead letters', 'Everything that came was a metric.') };
    }),
    panel('Samples', reason ? `of: ${reason}` : 'the newest hundred', async () => {
      const { letters } = await call(`/api/letters?${new URLSearchParams({ reason })}`, { signal: about.signal });
      return { content: letters.length ? [reason ? h('p', {}, about.linked({ reason: '' }, 'Show all reasons')) : null, table(letters, [
        ['Refused', (one) => when(Date.parse(one.refused_at))], ['Reason', (one) => one.reason], ['Detail', (one) => one.detail, { wide: true }], ['Payload', (one) => h('code', {}, one.payload.length > 240 ? `${one.payload.slice(0, 240)}…` : one.payload), { wide: true }], ['Attempts', (one) => number(one.attempts), { numeric: true }], ['Sent again now', (one) => tag(one.would_be, one.would_be === 'accepted' ? 'good' : 'warn')],
      ], 'Samples', { tall: true })] : empty('No open dead letter', reason ? 'None of this reason.' : 'Everything that came was a metric.') };
    }),
  ];
}

async function act(about, action, row) {
  const asked = { action, reason: row.reason };
  let ahead;
  try { ahead = await post('/api/letters', { ...asked, preview: true }); } catch (error) { about.notice('This cannot be done', h('p', {}, error.message)); return; }
  const what = action === 'replay' ? `Of ${number(ahead.chosen)} items ${number(ahead.would_be_accepted)} would be accepted now and ${number(ahead.would_be_refused)} refused again. Replay pushes them to the buffer; the old rows stay, marked.` : `${number(ahead.chosen)} items would be marked as of no further interest. The rows stay until their retention ends.`;
  about.confirm_in(`${action === 'replay' ? 'Replay' : 'Drop'}: ${row.reason}`, h('p', {}, what), action === 'replay' ? 'Replay them' : 'Drop them', async () => {
    const done = await post('/api/letters', asked);
    return `${number(done.done)} ${action === 'replay' ? 'replayed' : 'dropped'}.`;
  });
}
