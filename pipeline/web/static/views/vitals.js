// Core Web Vitals by browser and page.
import { lines } from '../charts.js';
import { h } from '../dom.js';
import { number, percent, vital as shown } from '../format.js';
import { empty, panel, shares, table, tag } from '../parts.js';

export const filters = ['span', 'environment', 'browser'];
// Those of tbt and speed_index are Lighthouse's for mobile; figures bring those of the form factor.
export const LIMITS = { lcp: [2500, 4000], inp: [200, 500], cls: [0.1, 0.25], fcp: [1800, 3000], ttfb: [800, 1800], fid: [100, 300], tbt: [200, 600], speed_index: [3387, 5800] };
const NAMES = { lcp: 'Largest Contentful Paint', inp: 'Interaction to Next Paint', cls: 'Cumulative Layout Shift', fcp: 'First Contentful Paint', ttfb: 'Time to First Byte', fid: 'First Input Delay (legacy)', tbt: 'Total Blocking Time (laboratory)', speed_index: 'Speed Index (laboratory)' };
const called = (name) => (name === 'speed_index' ? 'Speed Index' : name.toUpperCase());
const nothing = () => empty('No page views in this span', 'Browsers report to POST /v1/vitals, and tests send metrics such as lcp and cls.');
const rated = (row) => (4 * row.good_views >= 3 * row.views ? 'good' : 4 * (row.good_views + row.improvable_views) >= 3 * row.views ? 'warn' : 'bad');
const word = { good: 'good', warn: 'needs improvement', bad: 'poor' };

export function render(about) {
  const chosen = Object.hasOwn(LIMITS, about.asked.get('vital')) ? about.asked.get('vital') : 'lcp';
  const pick = Object.keys(LIMITS).map((name) => { const link = about.linked({ vital: name }, called(name)); if (name === chosen) link.setAttribute('aria-current', 'true'); return link; });
  return [
    panel('All pages', 'good is when three quarters of the page views are', async () => {
      const told = await about.figure('vitals');
      return { source: told, content: told.list.length ? table(told.list, [
        ['Vital', (row) => about.linked({ vital: row.vital }, `${called(row.vital)} · ${NAMES[row.vital] || ''}`)],
        ['Rating', (row) => tag(word[rated(row)], rated(row))],
        ['p75', (row) => shown(row.vital, row.p75), { numeric: true, hint: 'three quarters of the page views were at most this' }],
        ['Good up to', (row) => shown(row.vital, row.good_up_to ?? null), { numeric: true }],
        ['Good', (row) => percent(row.good_views / row.views, 0), { numeric: true }],
        ['Shares', (row) => shares(row.good_views, row.improvable_views, row.poor_views)],
        ['Page views', (row) => number(row.views), { numeric: true }],
      ], 'All pages') : nothing() };
    }),
    h('nav', { class: 'pick', 'aria-label': 'Vital' }, pick),
    panel(`${called(chosen)} over time`, `${NAMES[chosen]}; dashed: the limits of good and poor; the band: 95 % bounds, from 13 page views on`, async () => {
      const told = await about.figure('vitals_over_time', { vital: chosen });
      const list = told.list;
      if (!list.length) return { source: told, content: nothing() };
      const at = list.map((row) => row.at);
      const format = (value) => shown(chosen, value);
      const bound = (key) => list.map((row) => row[key]);
      return { source: told, content: lines(at, [
        { name: 'upper bound', values: bound('high'), width: 0, format },
        { name: 'lower bound', values: bound('low'), width: 0, format },
        { name: 'p75', values: list.map((row) => row.p75), format, points: at.length < 60 },
        { name: 'good up to', values: list.map((row) => row.good_up_to), colour: '--good-fill', dash: [6, 5], width: 1.2, format },
        { name: 'poor from', values: list.map((row) => row.poor_above), colour: '--bad-fill', dash: [6, 5], width: 1.2, format },
      ], { label: `75th percentile of ${NAMES[chosen]} over time; the newest is ${format(list.at(-1).p75)}`, format, bands: [[1, 2]] }) };
    }),
    panel(`${called(chosen)} by page and browser`, 'the slowest first', async () => {
      const told = await about.figure('vitals_by_page', { vital: chosen });
      return { source: told, content: told.list.length ? table(told.list, [
        ['Page', (row) => row.page || '(no page)', { wide: true }], ['Browser', (row) => row.browser], ['Rating', (row) => tag(word[rated(row)], rated(row))], ['p75', (row) => shown(chosen, row.p75), { numeric: true }],
        ['Shares', (row) => shares(row.good_views, row.improvable_views, row.poor_views)], ['Page views', (row) => [number(row.views), row.views < 13 ? [' ', tag('few', 'warn')] : null], { numeric: true, hint: 'below 13 a p75 has no bounds' }],
      ], 'By page and browser', { tall: true }) : nothing() };
    }),
    panel('Lighthouse performance', 'last 24 hours; out of the p75 of five metrics, weights of Lighthouse 10 to 13', async () => {
      const asked = await about.figure('laboratory');
      const told = asked.list[0].results ? await about.figure('lighthouse_performance') : { ...asked, list: [] };
      const score = (points) => (points === null ? tag('no score') : tag(String(points), points >= 90 ? 'good' : points >= 50 ? 'warn' : 'bad'));
      const metric = (name) => [called(name), (row) => shown(name, row[name]), { numeric: true }];
      return { source: told, content: told.list.length ? table(told.list, [
        ['Page', (row) => row.page || '(no page)', { wide: true }], ['Browser', (row) => row.browser], ['Scored for', (row) => row.form_factor],
        ['Score', (row) => [score(row.performance_score), row.missing.length ? ` lacks ${row.missing.map(called).join(', ')}` : null]],
        ...['fcp', 'speed_index', 'lcp', 'tbt', 'cls'].map(metric), ['Runs', (row) => number(row.samples), { numeric: true, hint: 'of the metric that was sent least often' }],
      ], 'Lighthouse performance') : empty('No Lighthouse results in the last day', 'pipeline push takes reports of Lighthouse; or send metrics tbt and speed_index beside fcp, lcp and cls.') };
    }),
  ];
}
