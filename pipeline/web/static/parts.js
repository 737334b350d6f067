// Panels, tables, and the states that every view has: loading, empty, error, no permission.
import { fill, h, svg } from './dom.js';
import { when } from './format.js';

export const loading = () => h('p', { class: 'state loading' }, 'Loading…');
export const empty = (title, what) => h('p', { class: 'state' }, h('strong', {}, title), what);

export function failed(error) {
  if (error.kind === 'unknown' || error.status === 401) return h('p', { class: 'state' }, h('strong', {}, 'Sign in to see this'), 'This server asks for credentials: use “Sign in” above.');
  if (error.kind === 'wrong' || error.kind === 'denied') return h('p', { class: 'state' }, h('strong', {}, 'You may not see this'), error.message);
  if (error.kind === 'outage') return h('p', { class: 'state error' }, h('strong', {}, 'A neighbour does not answer'), `${error.message} It is tried again; nothing is lost meanwhile.`);
  return h('p', { class: 'state error' }, h('strong', {}, 'This could not be loaded'), error.message);
}

// A panel that loads itself; `load` returns its content and, where it has one, the figure it comes from.
export function panel(title, hint, load, options = {}) {
  const body = h('div', {}, loading());
  const foot = h('div', {});
  // Until it has its content nothing below it is shown (style.css): what is seen once does not move.
  const element = h('section', { class: options.later ? 'panel' : 'panel is-loading', 'aria-label': title }, h('header', {}, h('h2', {}, title), h('span', { class: 'hint' }, hint || '')), body, foot);
  const refresh = async () => {
    try {
      const { content, source } = await load();
      fill(body, content);
      fill(foot, source ? origin(source) : []);
    } catch (error) {
      if (error.name === 'AbortError') return;
      fill(body, failed(error));
      fill(foot);
    }
    element.classList.remove('is-loading');
  };
  element.refresh = refresh;
  if (!options.later) refresh();
  return element;
}

// Where a figure comes from: what was asked, of which span, how long it took.
export function origin(told) {
  const span = told.parameters?.from ? ` · ${span_text(told.parameters)}` : '';
  return h('details', { class: 'from' },
    h('summary', {}, `Where this comes from · ${told.rows.length} row${told.rows.length === 1 ? '' : 's'} in ${told.took_ms} ms`),
    h('p', {}, `${told.source}${span}`),
    h('pre', { tabindex: 0 }, told.sql));
}

const span_text = ({ from, to }) => `${new Date(from * 1000).toLocaleString()} to ${new Date(to * 1000).toLocaleString()}`;

// columns: [title, cell(row), {numeric, wide, hint}]
export function table(rows, columns, label, options = {}) {
  const head = h('tr', {}, columns.map(([title, , is = {}]) => h('th', { scope: 'col', class: is.numeric ? 'n' : null, title: is.hint }, title || h('span', { class: 'unseen' }, 'More'))));
  const body = rows.map((row) => h('tr', {}, columns.map(([, cell, is = {}]) => h('td', { class: is.numeric ? 'n' : is.wide ? 'wide' : null, title: is.title ? is.title(row) : null }, cell(row)))));
  return h('div', { class: options.tall ? 'scroll tall' : 'scroll', tabindex: 0, role: 'region', 'aria-label': `${label}, table` }, h('table', {}, h('thead', {}, head), h('tbody', {}, body)));
}

export const tag = (text, kind = '') => h('span', { class: `tag ${kind}` }, text);

// Good, needs improvement, poor, as one bar that also says its numbers.
export function shares(good, middle, poor) {
  const total = good + middle + poor || 1;
  const said = `${good.toLocaleString('en')} good, ${middle.toLocaleString('en')} need improvement, ${poor.toLocaleString('en')} poor`;
  let at = 0;
  const pieces = [[good, 'var(--good-fill)'], [middle, 'var(--warn-fill)'], [poor, 'var(--bad-fill)']].map(([count, colour]) => {
    const piece = svg('rect', { x: at, y: 0, width: (100 * count) / total, height: 12, fill: colour });
    at += (100 * count) / total;
    return piece;
  });
  const title = svg('title');
  title.textContent = said;
  return h('div', { class: 'bar' }, svg('svg', { viewBox: '0 0 100 12', preserveAspectRatio: 'none', role: 'img', 'aria-label': said }, title, ...pieces));
}

export const labels_text = (labels) => Object.entries(labels || {}).map(([name, value]) => `${name}=${value}`).join(' ') || '–';
export { when };
