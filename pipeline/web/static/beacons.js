// The page's own vitals, as the pages of others report theirs; only in the demo.
import { onCLS, onFCP, onINP, onLCP, onTTFB } from '/static/vendor/web-vitals-6.2.3.js';

const waiting = [];
const add = ({ name, value, id, rating, navigationType }) => waiting.push({ name, value, id, rating, navigationType, page: location.pathname, environment: 'pipeline' });
for (const on of [onCLS, onFCP, onINP, onLCP, onTTFB]) on(add);
const send = () => { if (waiting.length) navigator.sendBeacon('/v1/vitals', JSON.stringify(waiting.splice(0))); };
addEventListener('visibilitychange', () => { if (document.visibilityState === 'hidden') send(); });
setInterval(send, 30000);
