// Reporter for Playwright: every attempt of every test as a metric of the pipeline. Node 18 or later, no dependency.
//
//   // playwright.config.ts
//   reporter: [['list'], ['./pipeline-playwright-reporter.mjs', { environment: 'staging' }]]
//
// Attempts go to a file (outputFile, default pipeline-metrics.ndjson) for `pipeline push`. With a url (or PIPELINE_URL)
// they go to its POST /v1/push as they end, and the file keeps only what could not be sent. A test run never fails,
// and waits at most flushForMs at its end, because of this.
//
// Options: outputFile, url, writeKey (PIPELINE_WRITE_KEY), suite, environment, runId, job, commit, branch, flushForMs.

import { createHash, randomBytes } from 'node:crypto';
import { execFileSync } from 'node:child_process';
import { appendFileSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';

const VERSION = /*VERSION*/ null;
const SYSTEMS = /*SYSTEMS*/ null;
const SCRUBBED = /*SCRUBBED*/ null;
const BATCH_ROWS = 200;
const SEND_EVERY_MS = 1000;
const REQUEST_TIMEOUT_MS = 10_000;
const LONGEST = { type: 120, message: 200, id: 512 };

export default class PipelineReporter {
  constructor(options = {}) {
    this.options = options;
    this.environ = process.env;
    this.url = (options.url || this.environ.PIPELINE_URL || '').replace(/\/+$/, '');
    this.writeKey = options.writeKey || this.environ.PIPELINE_WRITE_KEY || '';
    this.rows = [];
    this.sent = 0;
    this.batch = 0;
    this.trouble = '';
    this.isGivenUp = false;
  }

  printsToStdio() {
    return false;
  }

  onBegin(config) {
    this.guarded(() => {
      this.rootDir = config.rootDir;
      this.file = path.resolve(config.configFile ? path.dirname(config.configFile) : config.rootDir,
        this.options.outputFile || 'pipeline-metrics.ndjson');
      this.run = runContext(this.options, this.environ);
      writeFileSync(this.file, '');
      if (this.url) {
        this.timer = setInterval(() => this.send(), SEND_EVERY_MS);
        this.timer.unref();
      }
    });
  }

  onTestEnd(test, result) {
    this.guarded(() => {
      const [, project, , ...titles] = test.titlePath();
      const file = path.relative(this.rootDir, test.location.file).split(path.sep).join('/');
      const name = titles.join(' › ');
      this.add({
        timestamp: result.startTime.getTime() + Math.max(0, result.duration),
        value: Math.max(0, result.duration),
        test_id: `${file}::${name}`,
        test_name: name,
        test_suite: file,
        browser: project,
        status: statusOf(test, result),
        attempt: result.retry + 1,
      }, result.status === test.expectedStatus ? undefined : result.error);
    });
  }

  onError(error) {
    this.guarded(() => this.add({
      timestamp: Date.now(), value: 0, test_id: '(run)', test_name: '(run)', status: 'failed', attempt: 1,
    }, error));
  }

  async onEnd() {
    clearInterval(this.timer);
    try {
      if (this.url && this.file) await this.flush(this.options.flushForMs ?? 5000);
    } catch (error) {
      this.trouble ||= String(error);
    }
    this.guarded(() => this.summarize());
  }

  guarded(act) {
    try {
      act();
    } catch (error) {
      this.trouble ||= String(error);
    }
  }

  add(row, error) {
    if (!this.run) return;
    const failure = error ? failureOf(error.message || error.value || '') : { type: '', message: '' };
    const tags = { ...this.run.tags, reporter: `playwright ${VERSION}` };
    if (failure.message) {
      tags.error_message = failure.message;
      tags.error_fingerprint = createHash('sha256').update(`${failure.type}\n${failure.message}`).digest('hex').slice(0, 12);
    }
    const whole = {
      metric_type: 'duration', ...row, ...this.run.fields, environment: this.options.environment, error_type: failure.type, tags,
    };
    if (this.options.suite) whole.test_suite = this.options.suite;
    for (const name of Object.keys(whole)) if (whole[name] === '' || whole[name] === undefined) delete whole[name];
    for (const name of ['test_id', 'test_name', 'test_suite']) if (whole[name]) whole[name] = bounded(whole[name]);
    const line = JSON.stringify(whole);
    this.rows.push(line);
    appendFileSync(this.file, `${line}\n`);
    if (this.url && this.rows.length >= BATCH_ROWS) this.send();
  }

  // One batch under way at a time; it keeps its number until the server has answered for it, so nothing counts twice.
  async send() {
    if (this.underWay) return this.underWay;
    if (!this.pending && this.rows.length) this.pending = { number: ++this.batch, rows: this.rows.splice(0, BATCH_ROWS) };
    if (!this.pending || this.isGivenUp) return undefined;
    this.underWay = this.post(this.pending).finally(() => { this.underWay = undefined; });
    return this.underWay;
  }

  async post(batch) {
    const key = `${this.run.fields.run_id}/${this.run.fields.job}/${batch.number}`;
    const headers = { 'Content-Type': 'application/x-ndjson', 'Idempotency-Key': encodeURIComponent(key) };
    if (this.writeKey) headers['X-Write-Key'] = this.writeKey;
    try {
      const reply = await fetch(`${this.url}/v1/push`, {
        method: 'POST', headers, body: batch.rows.join('\n'), signal: AbortSignal.timeout(REQUEST_TIMEOUT_MS),
      });
      const told = (await reply.text()).slice(0, 200);
      if (reply.ok) {
        this.sent += batch.rows.length;
        this.pending = undefined;
        this.trouble = '';
      } else {
        this.trouble = `${reply.status} ${told}`;
        this.isGivenUp = reply.status < 500 && reply.status !== 429;
      }
    } catch (error) {
      this.trouble = String(error.cause?.message || error.message || error);
    }
  }

  async flush(forMs) {
    const deadline = Date.now() + forMs;
    while ((this.rows.length || this.pending) && !this.isGivenUp && Date.now() < deadline) {
      await this.send();
      if (this.trouble) await new Promise((resolve) => setTimeout(resolve, 200));
    }
  }

  summarize() {
    if (!this.file) return;
    const left = [...(this.pending?.rows || []), ...this.rows];
    if (this.url && !left.length) rmSync(this.file, { force: true });
    else if (this.url) writeFileSync(this.file, left.map((line) => `${line}\n`).join(''));
    const told = this.url ? `${this.sent} sent, ${left.length} not sent` : `${left.length} written`;
    const hint = left.length ? `; feed them with: pipeline push ${path.relative(process.cwd(), this.file)}` : '';
    process.stderr.write(`pipeline metrics: ${told}${this.trouble ? ` (${this.trouble})` : ''}${hint}\n`);
  }
}

function statusOf(test, result) {
  if (result.status === 'skipped' || result.status === 'interrupted') return result.status;
  if (result.status === test.expectedStatus) return result.retry > 0 ? 'flaky' : 'passed';
  return result.retry < test.retries ? 'retried' : 'failed';
}

export function failureOf(text) {
  // eslint-disable-next-line no-control-regex
  const lines = text.slice(0, 4000).replace(/\x1b\[[0-9;]*[A-Za-z]/g, '').split('\n').map((line) => line.trim());
  let line = lines.find(Boolean) || '';
  let type = '';
  const named = /^([A-Za-z_][\w$]*(?:\.[A-Za-z_][\w$]*)*)(?: \[\w+\])? ?:(?!:)\s*(.*)$/.exec(line);
  if (named && /(?:Error|Exception|Failure|Failed|Timeout|Warning)$/.test(named[1])) [, type, line] = named;
  for (const [pattern, placeholder] of SCRUBBED) line = line.replace(new RegExp(pattern, 'g'), placeholder);
  line = line.replace(/\s+/g, ' ').trim();
  const points = [...line];
  if (points.length > LONGEST.message) line = `${points.slice(0, LONGEST.message - 1).join('')}…`;
  return { type: type.slice(0, LONGEST.type), message: line };
}

function bounded(text) {
  const points = [...text];
  if (points.length <= LONGEST.id) return text;
  const digest = createHash('sha256').update(text).digest('hex').slice(0, 12);
  return `${points.slice(0, LONGEST.id - 13).join('')}…${digest}`;
}

// What the environment says of the run, by the same table as Python's run_context.

export function runContext(options, environ) {
  const system = SYSTEMS.find(({ marker }) => !['', 'false'].includes((environ[marker] || '').toLowerCase()));
  const found = system ? ofSystem(system, environ) : {};
  const nonce = randomBytes(4).toString('hex');
  const [commit, branch] = found.commit ? [found.commit, found.branch] : askGit();
  const given = options.job || environ.PIPELINE_JOB;
  const fields = {
    run_id: clean(options.runId || environ.PIPELINE_RUN_ID || found.run_id || `local-${nonce}`),
    job: clean(given || (found.job ? `${found.job}#${nonce}` : nonce)),
    commit: clean(options.commit || environ.PIPELINE_COMMIT || commit),
    branch: clean(options.branch || environ.PIPELINE_BRANCH || branch),
  };
  const tags = { ci: system?.name, run_link: found.link, base_branch: found.base_branch, pull_request: found.pull_request };
  return { fields: withoutEmpty(fields), tags: withoutEmpty(tags) };
}

function ofSystem(system, environ) {
  const first = (templates) => templates.map((template) => filled(template, environ)).find(Boolean) || '';
  const found = Object.fromEntries(
    ['run_id', 'job', 'commit', 'branch', 'base_branch', 'pull_request', 'link'].map((name) => [name, first(system[name])]));
  found.branch = branchOf(found.branch);
  found.base_branch = branchOf(found.base_branch);
  const request = system.name === 'github' && /^refs\/pull\/(\d+)\//.exec(environ.GITHUB_REF || '');
  if (request) {
    [, found.pull_request] = request;
    try {
      found.commit = JSON.parse(readFileSync(environ.GITHUB_EVENT_PATH, 'utf8')).pull_request.head.sha || found.commit;
    } catch { /* the merge commit is better than nothing */ }
  }
  return found;
}

function filled(template, environ) {
  const names = [...template.matchAll(/\{(\w+)\}/g)].map(([, name]) => name);
  if (names.some((name) => ['', 'false'].includes((environ[name] || '').trim()))) return '';
  return clean(template.replace(/\{(\w+)\}/g, (_, name) => environ[name].trim()));
}

function askGit() {
  try {
    const told = execFileSync('git', ['rev-parse', 'HEAD', '--abbrev-ref', 'HEAD'],
      { encoding: 'utf8', timeout: 5000, stdio: ['ignore', 'pipe', 'ignore'] });
    const [commit, branch] = told.trim().split('\n');
    return [commit, branchOf(branch || '')];
  } catch {
    return ['', ''];
  }
}

function branchOf(name) {
  const branch = name.replace(/^(?:refs\/heads\/|refs\/tags\/|remotes\/|origin\/)+/, '');
  return branch === 'HEAD' ? '' : branch;
}

function clean(text) {
  return (text || '').trim().replace(/[^\w.:/@+-]+/g, '_').slice(0, 256);
}

function withoutEmpty(object) {
  return Object.fromEntries(Object.entries(object).filter(([, text]) => text));
}
