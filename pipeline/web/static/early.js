// Before the first paint: the chosen colours, so that the others do not flash. And the first questions of the view in the
// address are asked while the rest of the page still loads; what asks them later finds them here (api.js).
window.early = (() => {
  let chosen = null;
  try { chosen = localStorage.getItem('theme'); } catch { /* A browser that keeps nothing for this site: its own colours. */ }
  if (chosen === 'light' || chosen === 'dark') document.documentElement.dataset.theme = chosen;

  const HOUR_S = 3600;
  const SPANS_S = { '1h': HOUR_S, '3h': 3 * HOUR_S, '12h': 12 * HOUR_S, '1d': 24 * HOUR_S, '7d': 168 * HOUR_S, '28d': 672 * HOUR_S };
  const FIRST = { __proto__: null, tests: ['durations', 'suites'], runs: ['runs'], vitals: ['vitals'], alerts: ['alerts_active'], platform: ['platform'], letters: ['letters'] };

  const span = (asked) => (Object.hasOwn(SPANS_S, asked.get('span')) ? asked.get('span') : '3h');
  const values = (asked) => {
    const to = Math.floor(Date.now() / 1000);
    return { environment: asked.get('environment') || '', browser: asked.get('browser') || '', suite: asked.get('suite') || '', from: to - SPANS_S[span(asked)], to };
  };
  const path = (name, given) => `/api/figures/${name}?${new URLSearchParams(Object.entries(given).filter(([, value]) => value !== '' && value !== undefined))}`;

  const answers = new Map();
  const ask = (address) => { const answer = fetch(address); answer.catch(() => {}); answers.set(address, answer); };
  const asked = new URLSearchParams(location.search);
  const first = values(asked);
  // An address with a key signs in before anything is asked.
  const signs_in = location.hash.includes('key=');
  if (!signs_in) {
    ask('/api/session');
    const view = asked.get('view') || 'now';
    if (view === 'now') ask('/api/now');
    if (!asked.get('test') && !asked.get('run')) for (const name of FIRST[view] || []) ask(path(name, first));
  }
  return { span, values, path, first, answers, signs_in };
})();
