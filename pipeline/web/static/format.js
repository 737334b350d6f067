import { h } from './dom.js';

const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 1 });

export const number = (value) => (value === null || value === undefined ? '–' : Math.abs(value) >= 1e15 ? value.toExponential(2) : Math.abs(value) >= 100000 ? short.format(value) : whole.format(value));
export const exact = (value) => (value === null || value === undefined ? 'unknown' : value.toLocaleString('en'));
export const percent = (share, digits = 1) => (share === null || share === undefined ? '–' : `${(100 * share).toFixed(digits)} %`);

export function milliseconds(value) {
  if (value === null || value === undefined) return '–';
  if (value >= 7200000) return seconds(value / 1000);
  if (value >= 60000) return `${(value / 60000).toFixed(1)} min`;
  if (value >= 10000) return `${(value / 1000).toFixed(1)} s`;
  return `${whole.format(value)} ms`;
}

export function seconds(value) {
  if (value === null || value === undefined) return '–';
  if (value < 10) return `${value.toFixed(1)} s`;
  if (value < 120) return `${Math.round(value)} s`;
  if (value < 7200) return `${Math.round(value / 60)} min`;
  if (value < 172800) return `${(value / 3600).toFixed(1)} h`;
  return `${Math.round(value / 86400)} days`;
}

export function bytes(value) {
  if (value === null || value === undefined) return '–';
  for (const unit of ['B', 'KB', 'MB', 'GB']) { if (value < 1000) return `${value.toFixed(value < 10 && unit !== 'B' ? 1 : 0)} ${unit}`; value /= 1000; }
  return `${value.toFixed(1)} TB`;
}

// A number as it is, for those who asked for it: not shortened.
export const plain = (value) => (value !== 0 && (Math.abs(value) < 1e-6 || Math.abs(value) >= 1e15) ? String(value) : value.toLocaleString('en', { maximumSignificantDigits: Number.isInteger(value) ? 21 : 7 }));
export const decimal = (value) => (value === null || value === undefined ? '–' : Math.abs(value) >= 1e15 ? value.toExponential(2) : Math.abs(value) >= 100 ? whole.format(value) : Number(value.toPrecision(3)).toString());
export const vital = (name, value) => (name === 'cls' ? (value === null ? '–' : value.toFixed(3)) : milliseconds(value));

// A date, with its year where that is not this one.
export const dated = (moment) => ({ month: 'short', day: 'numeric', ...(moment.getFullYear() === new Date().getFullYear() ? {} : { year: 'numeric' }) });

// In the reader's zone; UTC on hover.
export function when(ms) {
  if (ms === null || ms === undefined || Number.isNaN(ms)) return h('span', {}, '–');
  const moment = new Date(ms);
  const today = new Date().toDateString() === moment.toDateString();
  const shown = moment.toLocaleString(undefined, today ? { hour: '2-digit', minute: '2-digit', second: '2-digit' } : { ...dated(moment), hour: '2-digit', minute: '2-digit' });
  return h('time', { datetime: moment.toISOString(), title: moment.toISOString().replace('T', ' ').replace(/\.\d+Z/, ' UTC') }, shown);
}
