// The shell: which view, which filters (both stand in the address), live events, theme, signing in.
import { call, figure, post } from './api.js';
import { redraw } from './charts.js';
import { fill, h } from './dom.js';
import { failed } from './parts.js';
import * as alerts from './views/alerts.js';
import * as ask from './views/ask.js';
import * as letters from './views/letters.js';
import * as now from './views/now.js';
import * as platform from './views/platform.js';
import * as runs from './views/runs.js';
import * as tests from './views/tests.js';
import * as vitals from './views/vitals.js';

const VIEWS = { now: ['Now', now], tests: ['Tests', tests], runs: ['Runs', runs], vitals: ['Vitals', vitals], alerts: ['Alerts', alerts], platform: ['Platform', platform], letters: ['Dead letters', letters], ask: ['Ask', ask] };
const SPANS = { '1h': 'last hour', '3h': 'last 3 hours', '12h': 'last 12 hours', '1d': 'last day', '7d': 'last 7 days', '28d': 'last 28 days' };
const UNITS = { h: 3600, d: 86400 };
const $ = (id) => document.getElementById(id);

export const session = { may_act: false, signs_in: false, queries: [], database: '' };
const listeners = new Set();
let newest = null;
let leaving = null;

const address = () => new URLSearchParams(location.search);
const current = () => (VIEWS[address().get('view')] ? address().get('view') : 'now');

// Change the address and show what it says; an empty value leaves it out.
export function go(changes, { replace = false } = {}) {
  const to = changes.view && changes.view !== current() ? keep(address()) : address();
  for (const [name, value] of Object.entries(changes)) { if (value === '' || value === null || value === undefined) to.delete(name); else to.set(name, value); }
  history[replace ? 'replaceState' : 'pushState'](null, '', `?${to}`);
  show();
}

// Filters go along from view to view, what belongs to one view does not.
function keep(from) {
  const to = new URLSearchParams();
  for (const name of ['environment', 'browser', 'suite', 'span']) if (from.get(name)) to.set(name, from.get(name));
  return to;
}

export const linked = (changes, ...children) => {
  const to = changes.view && changes.view !== current() ? keep(address()) : address();
  for (const [name, value] of Object.entries(changes)) to.set(name, value);
  return h('a', { href: `?${to}`, onclick: (event) => { if (!event.metaKey && !event.ctrlKey) { event.preventDefault(); go(changes); } } }, children);
};

function context() {
  const asked = address();
  const span = SPANS[asked.get('span')] ? asked.get('span') : '3h';
  const to = Math.floor(Date.now() / 1000);
  const aborted = new AbortController();
  const values = { environment: asked.get('environment') || '', browser: asked.get('browser') || '', suite: asked.get('suite') || '', from: to - Number.parseInt(span, 10) * UNITS[span.at(-1)], to };
  return {
    asked, values, signal: aborted.signal, abort: () => aborted.abort(), go, linked, session, notice, confirm_in, refresh: show,
    figure: (name, more = {}) => figure(name, { ...values, ...more }, aborted.signal),
    live: (told) => { listeners.add(told); if (newest) told(newest); },
  };
}

function show() {
  leaving?.abort();
  listeners.clear();
  const name = current();
  const [title, view] = VIEWS[name];
  document.title = `${title} · Pipeline`;
  for (const link of $('views').children) { if (link.dataset.view === name) link.setAttribute('aria-current', 'page'); else link.removeAttribute('aria-current'); }
  const about = (leaving = context());
  filters(view.filters || [], about);
  try { fill($('main'), h('h1', {}, view.title || title), view.render(about)); } catch (error) { fill($('main'), failed(error)); throw error; }
}

async function filters(wanted, about) {
  const form = $('filters');
  if (!wanted.length) { fill(form); form.dataset.for = ''; return; }
  const choose = (name, label, choices, value) => h('label', {}, label, h('select', { name, onchange: (event) => go({ [name]: event.target.value }) }, choices.map(([key, shown]) => h('option', { value: key, selected: key === value }, shown))));
  const draw = (found) => fill(form, wanted.map((name) => {
    if (name === 'span') return choose('span', 'Span', Object.entries(SPANS), SPANS[about.asked.get('span')] ? about.asked.get('span') : '3h');
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
    const told = JSON.parse(event.data);
    newest = { ...told, history: told.history || grown(told) };
    say('good', 'live');
    for (const told_to of listeners) told_to(newest);
  };
  events.onerror = () => {
    say('bad', 'reconnecting');
    if (events.readyState === EventSource.CLOSED) setTimeout(listen, 3000);
  };
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
  try { Object.assign(session, await call('/api/session')); } catch (error) { session.signs_in = error.status === 401 || error.status === 403; }
  $('sign').hidden = false;
  $('sign').textContent = session.may_act ? 'Sign out' : 'Sign in';
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
  localStorage.setItem('theme', document.documentElement.dataset.theme);
  // The colours of the page change first, then those of the charts.
  requestAnimationFrame(() => setTimeout(redraw));
}

fill($('views'), Object.entries(VIEWS).map(([name, [title]]) => {
  const link = h('a', { href: `?view=${name}`, 'data-view': name, onclick: (event) => { if (!event.metaKey && !event.ctrlKey) { event.preventDefault(); go({ view: name }); } } }, title);
  return link;
}));
document.querySelector('.brand').addEventListener('click', (event) => { event.preventDefault(); go({ view: 'now' }); });
$('theme').addEventListener('click', theme);
$('sign').addEventListener('click', sign);
$('filters').addEventListener('submit', (event) => event.preventDefault());
addEventListener('popstate', show);
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', redraw);
await enter();
show();
listen();
