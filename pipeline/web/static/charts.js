// uPlot, dressed in the page's colours.
import { h } from './dom.js';
import { dated } from './format.js';

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const watch = new ResizeObserver((entries) => {
  for (const { target, contentRect } of entries) if (target.plot && contentRect.width > 20) target.plot.setSize({ width: contentRect.width, height: target.plotHeight() });
});
// In the reader's language and zone; the day stands below its first point.
const day = (at) => new Date(at * 1000).toLocaleDateString(undefined, dated(new Date(at * 1000)));
const clock = (at, step = 60) => new Date(at * 1000).toLocaleTimeString(undefined, { hour: '2-digit', minute: '2-digit', ...(step < 60 ? { second: '2-digit' } : {}) });
const times = (_, splits, __, ___, step) => splits.map((at, index) => (step >= 86400 ? day(at) : index === 0 || day(at) !== day(splits[index - 1]) ? `${clock(at, step)}\n${day(at)}` : clock(at, step)));
const moment = (at) => (at === null || at === undefined ? '–' : `${day(at)} ${clock(at)} · ${new Date(at * 1000).toISOString().slice(-13, -8)} UTC`);
const drawn = new Set();
export function redraw() { for (const box of [...drawn]) { if (box.isConnected) box.draw(); else { box.plot?.destroy(); drawn.delete(box); watch.unobserve(box); } } }

function mount(box, options, data) {
  box.draw = () => {
    box.plot?.destroy();
    box.replaceChildren();
    const width = Math.max(60, box.clientWidth);
    box.plot = new uPlot({ ...options(), width, height: box.plotHeight() }, data(), box);
  };
  drawn.add(box);
  requestAnimationFrame(() => { if (box.isConnected) { box.draw(); watch.observe(box); } });
  return box;
}

const axis = (format, size = 68) => ({ stroke: colour('--faint'), grid: { stroke: colour('--line'), width: 1 }, ticks: { show: false }, size, values: format ? (_, values) => values.map(format) : undefined });

// series: {name, values, colour, format, scale, fill, points, dash}; bands: [upper index, lower index]
export function lines(at, series, { label, format, height = 190, low, high, bands, scale2, marks } = {}) {
  const box = h('div', { class: height < 180 ? 'chart small' : 'chart', role: 'img', 'aria-label': label });
  box.plotHeight = () => height;
  const newest = (plot) => plot.setLegend({ idx: at.length - 1 });
  const options = () => ({
    cursor: { y: false, points: { size: 6 } },
    legend: { live: true },
    scales: { x: { time: true }, y: { range: (_, min, max) => [low ?? Math.min(0, min), high ?? (max > 0 ? max * 1.08 : 1)] }, ...(scale2 ? { z: { range: () => scale2.range } } : {}) },
    padding: [8, scale2 ? 0 : 36, 0, 0],
    axes: [{ ...axis(), size: 40, space: 84, values: times }, axis(format), ...(scale2 ? [{ ...axis(scale2.format), scale: 'z', side: 1, grid: { show: false } }] : [])],
    series: [{ label: 'time', value: (_, at) => moment(at) }, ...series.map((one) => ({
      label: one.name, stroke: colour(one.colour || '--accent'), width: one.width ?? 2, scale: one.scale || 'y', dash: one.dash, spanGaps: one.gaps ?? false,
      fill: one.fill ? `${colour(one.colour || '--accent')}22` : undefined, points: { show: one.points ?? at.length < 3, size: one.size ?? 5, fill: colour(one.colour || '--accent') }, paths: one.points === true && one.width === 0 ? () => null : undefined,
      value: (_, value) => (value === null || value === undefined ? '–' : (one.format || format || String)(value)),
    }))],
    bands: (bands || []).map((pair) => ({ series: pair, fill: `${colour('--accent')}1f` })),
    // Without a pointer the legend says the newest values.
    hooks: { ready: [newest], setCursor: [(plot) => { if (plot.cursor.idx === null || plot.cursor.idx === undefined) newest(plot); }], ...(marks ? { draw: [(plot) => {
      const context = plot.ctx;
      context.save();
      for (const mark of marks) {
        const x = plot.valToPos(mark.at, 'x', true);
        if (x < plot.bbox.left || x > plot.bbox.left + plot.bbox.width) continue;
        context.strokeStyle = colour(mark.colour || '--bad-fill');
        context.setLineDash([4, 4]);
        context.beginPath(); context.moveTo(x, plot.bbox.top); context.lineTo(x, plot.bbox.top + plot.bbox.height); context.stroke();
      }
      context.restore();
    }] } : {}) },
  });
  return mount(box, options, () => [at, ...series.map((one) => one.values)]);
}

export function spark(at, values, label, name = '--accent') {
  const box = h('div', { class: 'spark sparse', role: 'img', 'aria-label': label });
  box.plotHeight = () => 44;
  box.data = [at, values];
  const options = () => ({
    cursor: { show: false }, legend: { show: false }, padding: [4, 0, 2, 0],
    scales: { x: { time: true }, y: { range: (_, min, max) => [Math.min(0, min ?? 0), max > 0 ? max * 1.1 : 1] } },
    axes: [{ show: false }, { show: false }],
    series: [{}, { stroke: colour(name), width: 1.5, fill: `${colour(name)}1c`, points: { show: false }, spanGaps: true }],
  });
  mount(box, options, () => box.data);
  box.update = (times, found) => { box.data = [times, found]; box.plot?.setData(box.data); };
  return box;
}
