// The shell: which view, which filters (both stand in the address), live events, theme, signing in.
import { call, figure, post } from './api.js';
import { redraw } from './charts.js';
import { fill, h } from './dom.js';
import { failed } from './parts.js';

// Each view is a module, loaded when it is shown; what it is called and about stands in the links to it (shell.py).
const LINKS = Object.fromEntries([...document.querySelectorAll('#views a')].map((link) => [link.dataset.view, link]));
const view_of = (name) => import(`/static/views/${name}.js`);
const SPANS = { '1h': 'last hour', '3h': 'last 3 hours', '12h': 'last 12 hours', '1d': 'last day', '7d': 'last 7 days', '28d': 'last 28 days' };
const early = window.early;
const $ = (id) => document.getElementById(id);

export const session = { may_act: false, signs_in: false, refused: null, queries: [], database: '' };
const listeners = new Set();
let newest = null;
let leaving = null;

const address = () => new URLSearchParams(location.search);
const current = () => (Object.hasOwn(LINKS, address().get('view')) ? address().get('view') : 'now');

// The address with some of it changed; an empty value leaves it out.
function changed(changes) {
  const to = changes.view && changes.view !== current() ? keep(address()) : address();
  for (const [name, value] of Object.entries(changes)) { if (value === '' || value === null || value === undefined) to.delete(name); else to.set(name, value); }
  return to;
}

// Change the address and show what it says.
export function go(changes, { replace = false } = {}) {
  const to = changed(changes);
  history[replace ? 'replaceState' : 'pushState'](null, '', `?${to}`);
  show();
}

// Filters go along from view to view, what belongs to one view does not.
function keep(from) {
  const to = new URLSearchParams();
  for (const name of ['environment', 'browser', 'suite', 'span']) if (from.get(name)) to.set(name, from.get(name));
  return to;
}

export const linked = (changes, ...children) => h('a', { href: `?${changed(changes)}`, onclick: (event) => { if (!event.metaKey && !event.ctrlKey && !event.shiftKey) { event.preventDefault(); go(changes); } } }, children);

function context() {
  const asked = address();
  const aborted = new AbortController();
  // The first view goes on with what was asked before it was there.
  const values = early.first || early.values(asked);
  early.first = null;
  return {
    asked, values, signal: aborted.signal, abort: () => aborted.abort(), go, linked, session, notice, confirm_in, refresh: show,
    figure: (name, more = {}) => figure(name, { ...values, ...more }, aborted.signal),
    live: (told) => { listeners.add(told); if (newest) told(newest); },
  };
}

async function show() {
  leaving?.abort();
  listeners.clear();
  const name = current();
  const { heading, lead } = LINKS[name].dataset;
  document.title = `${LINKS[name].textContent} · Pipeline`;
  for (const link of Object.values(LINKS)) { if (link.dataset.view === name) link.setAttribute('aria-current', 'page'); else link.removeAttribute('aria-current'); }
  if ($('lead').textContent !== lead) { $('heading').textContent = heading; $('lead').textContent = lead; fill($('view')); fill($('filters')); }
  const about = (leaving = context());
  // Whatever a view would ask is refused alike, and the live figures would never come.
  if (session.refused) { fill($('filters')); fill($('view'), failed(session.refused)); return; }
  try {
    const view = await view_of(name);
    if (about.signal.aborted) return;
    filters(view.filters || [], about);
    fill($('view'), view.render(about));
  } catch (error) { fill($('view'), failed(error)); throw error; }
}

async function filters(wanted, about) {
  const form = $('filters');
  if (!wanted.length) { fill(form); form.dataset.for = ''; return; }
  const choose = (name, label, choices, value) => h('label', {}, label, h('select', { name, onchange: (event) => go({ [name]: event.target.value }) }, choices.map(([key, shown]) => h('option', { value: key, selected: key === value }, shown))));
  const draw = (found) => fill(form, wanted.map((name) => {
    if (name === 'span') return choose('span', 'Span', Object.entries(SPANS), early.span(about.asked));
    const [label, list] = { environment: ['Environment', found.environments], browser: ['Browser', found.browsers], suite: ['Suite', found.suites] }[name];
    const value = about.values[name];
    const all = [...new Set([...(list || []), value])].filter(Boolean).sort();
    return choose(name, label, [['', 'all'], ...all.map((one) => [one, one])], value);
  }));
  draw(filters.known || {});
  try {
    const told = await figure('filters', { from: about.values.to - 7 * 86400, to: about.values.to }, about.signal);
    const fresh = told.list[0] || {};
    if (JSON.stringify(fresh) !== JSON.stringify(filters.known)) { filters.known = fresh; if (!form.contains(document.activeElement)) draw(fresh); }
  } catch { /* The view itself says what is wrong. */ }
}

// Live events, with the browser's own reconnecting.
function listen() {
  const live = $('live');
  const events = new EventSource('/api/events');
  const say = (kind, text) => { if (live.textContent !== text) { live.className = `live ${kind}`; live.textContent = text; } };
  events.onmessage = (event) => {
    tell(JSON.parse(event.data));
    say('good', 'live');
  };
  events.onerror = () => {
    say('bad', session.refused ? 'not signed in' : 'reconnecting');
    if (events.readyState === EventSource.CLOSED && !session.refused) setTimeout(listen, 3000);
  };
}

function tell(told) {
  newest = { ...told, history: told.history || grown(told) };
  for (const listener of listeners) listener(newest);
}

// The last hour goes on from event to event.
function grown(told) {
  const history = newest?.history;
  if (!history) return { at: [] };
  const point = { at: told.at_ms / 1000, stored_per_s: told.stored_per_s, freshness_s: told.newest_row_age_s, waiting: told.waiting, dead_lettered: told.dead_lettered, unaccounted: told.unaccounted, firing: told.alerts.firing || 0, job_lag_s: told.job_lag_s, redis_memory_bytes: told.redis_memory_bytes };
  if (history.at.at(-1) === point.at) return history;
  const from = point.at - 3600;
  const skip = Math.max(history.at.findIndex((at) => at >= from), 0);
  return Object.fromEntries(Object.keys(point).map((key) => [key, [...history[key].slice(skip), point[key]]]));
}

// Dialogs

export function notice(title, ...content) {
  const dialog = $('dialog');
  fill(dialog, h('h2', { id: 'dialog-title' }, title), content, h('p', { class: 'row' }, h('button', { type: 'button', onclick: () => dialog.close() }, 'Close')));
  dialog.showModal();
}

// Ask before something is changed; `act` returns what to say afterwards.
export function confirm_in(title, content, button, act) {
  const dialog = $('dialog');
  const said = h('p', { role: 'status', class: 'hint' });
  const submit = async (event) => {
    event.preventDefault();
    const main = event.submitter;
    if (main) main.disabled = true;
    try { said.textContent = await act(new FormData(event.target)); show(); if (main) main.hidden = true; } catch (error) { said.textContent = error.message; if (main) main.disabled = false; }
  };
  const buttons = h('p', { class: 'row' }, h('button', { class: 'main', type: 'submit' }, button), h('button', { type: 'button', onclick: () => dialog.close() }, 'Close'));
  fill(dialog, h('form', { class: 'form', onsubmit: submit }, h('h2', { id: 'dialog-title' }, title), content, said, buttons));
  dialog.showModal();
}

// Signing in

async function enter() {
  const key = new URLSearchParams(location.hash.slice(1)).get('key');
  if (key) {
    history.replaceState(null, '', location.pathname + location.search);
    await post('/api/login', { token: key }).catch(() => {});
  }
  try { Object.assign(session, await call('/api/session')); } catch (error) { session.signs_in = error.status === 401 || error.status === 403; if (session.signs_in) session.refused = error; }
  $('sign').hidden = false;
  $('sign').textContent = session.may_act ? 'Sign out' : 'Sign in';
  if (session.refused) show();
  if (session.beacons) import('/static/beacons.js');
}

function sign() {
  if (session.may_act) { post('/api/logout', {}).then(() => location.reload()); return; }
  const field = (name, label, type) => h('label', {}, label, h('input', { name, type, autocomplete: type === 'password' ? 'current-password' : 'username' }));
  confirm_in('Sign in', [h('p', { class: 'hint' }, 'With the token (setting web.token), or with user and password. Without either, open the address that the command printed.'), field('token', 'Token', 'password'), field('user', 'User', 'text'), field('password', 'Password', 'password')], 'Sign in', async (form) => {
    await post('/api/login', Object.fromEntries(form));
    location.reload();
    return 'Signed in.';
  });
}

function theme() {
  const dark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
  document.documentElement.dataset.theme = dark ? 'light' : 'dark';
  try { localStorage.setItem('theme', document.documentElement.dataset.theme); } catch { /* It holds for this visit. */ }
  // The colours of the page change first, then those of the charts.
  requestAnimationFrame(() => setTimeout(redraw));
}

for (const link of [...Object.values(LINKS), document.querySelector('.brand')]) link.addEventListener('click', (event) => { if (!event.metaKey && !event.ctrlKey) { event.preventDefault(); go({ view: link.dataset.view }); } });
$('theme').addEventListener('click', theme);
$('sign').addEventListener('click', sign);
$('filters').addEventListener('submit', (event) => event.preventDefault());
addEventListener('popstate', show);
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', redraw);
const entered = enter();
// Signing in by an address comes first, and "Ask" lists what the session brings; nothing else waits for it.
if (early.signs_in || current() === 'ask') await entered;
if (current() === 'now') call('/api/now').then((told) => { if (!newest) tell(told); }).catch(() => { /* The events say what is wrong. */ });
show();
listen();
// The other views are there before they are chosen; Safari has no idle callback.
const when_idle = window.requestIdleCallback || ((work) => setTimeout(work, 2000));
when_idle(() => { for (const name of Object.keys(LINKS)) view_of(name).catch(() => {}); }, { timeout: 5000 });
