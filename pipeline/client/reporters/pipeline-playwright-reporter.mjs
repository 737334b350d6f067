// Reporter for Playwright: every attempt of every test as a metric of the pipeline. Node 18 or later, no dependency.
//
//   // playwright.config.ts
//   reporter: [['list'], ['./pipeline-playwright-reporter.mjs', { environment: 'staging' }]]
//
// Attempts go to a file (outputFile, default pipeline-metrics.ndjson) for `pipeline push`. With a url (or PIPELINE_URL)
// they go to its POST /v1/push as soon as their verdict is known (a test may be tried again, and a serial suite is tried
// again as a whole), and the file keeps only what was not sent, also when the run is killed (but for a batch that is under
// way at that moment). A test run never fails, and waits at most flushForMs at its end, because of this.
//
// Options: outputFile, url, writeKey (PIPELINE_WRITE_KEY), suite, environment, runId, job, commit, branch, flushForMs.

import { createHash, randomBytes } from 'node:crypto';
import { execFileSync } from 'node:child_process';
import { appendFileSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';

const VERSION = /*VERSION*/ null;
const SYSTEMS = /*SYSTEMS*/ null;
const SCRUBBED = /*SCRUBBED*/ null;
const TYPE = /*TYPE*/ null;
const NAMES_AN_ERROR = /*NAMES_AN_ERROR*/ null;
// eslint-disable-next-line no-control-regex
const CONTROL = /[\x00-\x1f\x7f-\x9f]+/g;
const LINE_END = /[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]/;
const BATCH_ROWS = 200;
const SEND_EVERY_MS = 1000;
const REQUEST_TIMEOUT_MS = 10_000;
const OUTCOMES = { expected: 'passed', unexpected: 'failed', flaky: 'flaky', skipped: 'skipped' };
const LONGEST = { type: 120, message: 200, name: 256, id: 512 };

export default class PipelineReporter {
  constructor(options = {}) {
    this.options = options;
    this.environ = process.env;
    this.url = (options.url || this.environ.PIPELINE_URL || '').replace(/\/+$/, '');
    this.writeKey = options.writeKey || this.environ.PIPELINE_WRITE_KEY || '';
    // The suites of merge-reports do not say whether they are serial.
    this.isMerging = process.argv.includes('merge-reports');
    this.ended = new Map();
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
      const results = [...(this.ended.get(test) || []), result];
      this.ended.set(test, results);
      if (results.length === 1) this.keep(this.lineOf(test, result, statusSoFar(test, result, results)));
      else this.rewrite();
      const group = (test.retries && serialSuiteOf(test)?.allTests()) || [test];
      if (!this.isMerging && this.isOver(group)) for (const one of group) this.settle(one);
    });
  }

  // Whether none of these tests, which are tried again together, will be tried again.
  isOver(tests) {
    const rounds = (this.ended.get(tests[0]) || []).length;
    return rounds > 0 && tests.every((test) => {
      const results = this.ended.get(test) || [];
      return results.length === rounds && !mayRunAgain(test, results.at(-1));
    });
  }

  settle(test) {
    const results = this.ended.get(test);
    this.ended.delete(test);
    for (const result of results) {
      this.add(this.lineOf(test, result, result === results.at(-1) ? verdictOf(test, result) : 'retried'));
    }
  }

  lineOf(test, result, status) {
    const [, project, , ...titles] = test.titlePath();
    const file = path.relative(this.rootDir, test.location.file).split(path.sep).join('/');
    const name = titles.join(' › ');
    return this.line({
      timestamp: result.startTime.getTime() + Math.max(0, result.duration),
      value: Math.max(0, result.duration),
      test_id: `${file}::${name}`,
      test_name: name,
      test_suite: file,
      browser: project,
      status,
      attempt: result.retry + 1,
    }, hasFailed(test, result) ? result.error : undefined);
  }

  onError(error) {
    this.guarded(() => {
      if (!this.run) return;
      const line = this.line({
        timestamp: Date.now(), value: 0, test_id: '(run)', test_name: '(run)', status: 'failed', attempt: 1,
      }, error);
      this.add(line);
      this.keep(line);
    });
  }

  async onEnd() {
    clearInterval(this.timer);
    this.guarded(() => { for (const test of [...this.ended.keys()]) this.settle(test); });
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

  line(row, error) {
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
    return JSON.stringify(whole);
  }

  keep(line) {
    appendFileSync(this.file, `${line}\n`);
  }

  // What a run that is killed leaves behind for `pipeline push`: all that was not sent, by what is known so far.
  rewrite() {
    const open = [...this.ended].flatMap(
      ([test, results]) => results.map((result) => this.lineOf(test, result, statusSoFar(test, result, results))));
    const left = [...(this.pending?.rows || []), ...this.rows, ...open];
    writeFileSync(`${this.file}.part`, left.map((line) => `${line}\n`).join(''));
    renameSync(`${this.file}.part`, this.file);
    return left.length;
  }

  add(line) {
    this.rows.push(line);
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
        this.guarded(() => this.rewrite());
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
    const left = this.rewrite();
    if (this.url && !left) rmSync(this.file, { force: true });
    const told = this.url ? `${this.sent} sent, ${left} not sent` : `${left} written`;
    const hint = left ? `; feed them with: pipeline push ${path.relative(process.cwd(), this.file)}` : '';
    process.stderr.write(`pipeline metrics: ${told}${this.trouble ? ` (${this.trouble})` : ''}${hint}\n`);
  }
}

function hasFailed(test, result) {
  return !['skipped', 'interrupted', test.expectedStatus].includes(result.status);
}

// Playwright tries again what did not end as expected: a failure, and a test that was skipped because of another one.
function mayRunAgain(test, result) {
  return result.status !== test.expectedStatus && result.retry < test.retries;
}

// The status of an attempt while it is not known whether another one follows.
function statusSoFar(test, result, results) {
  return result !== results.at(-1) || mayRunAgain(test, result) ? 'retried' : verdictOf(test, result);
}

// The status of the last attempt: Playwright's own verdict on the test. It calls one flaky that failed and then skipped
// itself; that never passed, so it stays skipped.
function verdictOf(test, result) {
  if (result.status === 'interrupted') return 'interrupted';
  const verdict = OUTCOMES[test.outcome()];
  return verdict === 'flaky' && result.status === 'skipped' ? 'skipped' : verdict;
}

// The outermost serial suite around a test: Playwright tries it again as a whole. Its API does not tell the mode; where
// a later version names it otherwise, each test is judged by itself.
function serialSuiteOf(test) {
  let found;
  for (let suite = test.parent; suite; suite = suite.parent) if (suite._parallelMode === 'serial') found = suite;
  return found;
}

export function failureOf(text) {
  // eslint-disable-next-line no-control-regex
  const lines = text.slice(0, 4000).replace(/[\x1b\ufffd\u241b]\[[0-9;]*[A-Za-z]/g, '').split(LINE_END).map((line) => line.trim());
  let line = lines.find((one) => one && !one.startsWith('●')) || '';
  let type = '';
  const named = new RegExp(TYPE).exec(line)?.groups;
  if (named && isType(named.type, named.colon)) [type, line] = [named.type, named.rest];
  else if (line.startsWith('assert ')) type = 'AssertionError';
  line = printable(line);
  for (const [pattern, flags, placeholder] of SCRUBBED) line = line.replace(new RegExp(pattern, flags), placeholder);
  line = line.replace(/[^\S\ufeff]+/g, ' ').trim();
  const points = [...line];
  if (points.length > LONGEST.message) line = `${points.slice(0, LONGEST.message - 1).join('')}…`;
  return { type: type.slice(0, LONGEST.type), message: line };
}

function isType(name, colon) {
  const last = name.split(/\.|::|\\/).at(-1);
  return new RegExp(NAMES_AN_ERROR).test(last) || Boolean(colon && last !== name && /^\p{Lu}/u.test(last));
}

// Without control characters, and with U+FFFD for halves of characters, which no UTF-8 can carry.
function printable(text) {
  return text.replace(/\p{Cs}/gu, '\ufffd').replace(CONTROL, ' ').trim();
}

function bounded(given) {
  const text = printable(given);
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
  const given = clean(options.job) || clean(environ.PIPELINE_JOB);
  const fields = {
    run_id: clean(options.runId) || clean(environ.PIPELINE_RUN_ID) || found.run_id || `local-${nonce}`,
    job: given || (found.job ? `${found.job}#${nonce}` : nonce),
    commit: clean(options.commit) || clean(environ.PIPELINE_COMMIT) || found.commit,
    branch: branchOf(options.branch) || branchOf(environ.PIPELINE_BRANCH) || found.branch,
  };
  if (!fields.commit || !(fields.branch || system)) {
    const [commit, branch] = askGit();
    fields.commit ||= commit;
    fields.branch ||= branch;
  }
  const tags = { ci: system?.name, run_link: found.link, base_branch: found.base_branch, pull_request: found.pull_request };
  return { fields: withoutEmpty(fields), tags: withoutEmpty(tags) };
}

function ofSystem(system, environ) {
  const first = (templates) => templates.map((template) => filled(template, environ)).find(Boolean) || '';
  const found = Object.fromEntries(
    ['run_id', 'job', 'commit', 'branch', 'base_branch', 'pull_request', 'link'].map((name) => [name, first(system[name])]));
  for (const name of ['run_id', 'job', 'commit']) found[name] = clean(found[name]);
  for (const name of ['branch', 'base_branch']) found[name] = branchOf(found[name]);
  for (const name of ['pull_request', 'link']) found[name] = plain(found[name]);
  if (found.commit === 'HEAD') found.commit = '';
  found.branch = ofFork(found.branch, ...system.fork.map((template) => filled(template, environ)));
  try {
    if (system.name === 'github') ofGithubEvent(found, environ);
    if (system.name === 'teamcity') ofTeamcityProperties(found, environ);
  } catch { /* what the variables say is better than nothing */ }
  return found;
}

function ofGithubEvent(found, environ) {
  const ref = environ.GITHUB_REF || '';
  const queued = /^refs\/heads\/gh-readonly-queue\/(.+)\/pr-(\d+)-\w+$/.exec(ref);
  if (queued) {
    [found.base_branch, found.pull_request] = [branchOf(queued[1]), queued[2]];
    return;
  }
  const number = /^refs\/pull\/(\d+)\/\w+$/.exec(ref);
  if (number) [, found.pull_request] = number;
  const isOfAnother = environ.GITHUB_EVENT_NAME === 'workflow_run';
  if (!number && !isOfAnother && !(environ.GITHUB_HEAD_REF || '').trim()) return;
  const event = JSON.parse(readFileSync(environ.GITHUB_EVENT_PATH, 'utf8'));
  if (isOfAnother) ofWorkflowRun(found, event.workflow_run);
  else ofRequest(found, event.pull_request);
}

function ofRequest(found, request) {
  found.commit = clean(request.head.sha) || found.commit;
  found.branch = ofFork(branchOf(request.head.ref) || found.branch, request.head.repo?.full_name, request.base?.repo?.full_name);
  found.pull_request ||= plain(String(request.number ?? ''));
}

function ofWorkflowRun(found, other) {
  found.commit = clean(other.head_sha) || found.commit;
  found.branch = ofFork(branchOf(other.head_branch), other.head_repository?.full_name, other.repository?.full_name);
  found.pull_request = plain(String(other.pull_requests?.[0]?.number ?? ''));
}

// A fork's main is another branch: its branches carry its owner, as GitHub shows them.
function ofFork(branch, origin, target) {
  return origin && branch && origin !== target ? `${plain(origin.split('/')[0])}:${branch}` : branch;
}

function ofTeamcityProperties(found, environ) {
  const properties = readFileSync(environ.TEAMCITY_BUILD_PROPERTIES_FILE, 'utf8');
  const configuration = /^teamcity\.buildType\.id=(\w+)/m.exec(properties);
  if (configuration) found.run_id = clean(filled(`teamcity-${configuration[1]}-{BUILD_NUMBER}`, environ)) || found.run_id;
}

function filled(template, environ) {
  const names = [...template.matchAll(/\{(\w+)\}/g)].map(([, name]) => name);
  if (names.some((name) => ['', 'false'].includes((environ[name] || '').trim().toLowerCase()))) return '';
  return template.replace(/\{(\w+)\}/g, (_, name) => environ[name].trim());
}

function askGit() {
  try {
    const told = execFileSync('git', ['rev-parse', 'HEAD', '--symbolic-full-name', 'HEAD'],
      { encoding: 'utf8', timeout: 5000, stdio: ['ignore', 'pipe', 'ignore'] });
    const [commit, branch] = told.trim().split('\n');
    return [clean(commit), branchOf(branch)];
  } catch {
    return ['', ''];
  }
}

function branchOf(name) {
  const branch = plain(name).replace(/^(?:refs\/heads\/|refs\/tags\/|refs\/remotes\/|remotes\/|origin\/)+/, '');
  return branch === 'HEAD' ? '' : branch;
}

function plain(text) {
  // eslint-disable-next-line no-control-regex
  return [...String(text || '').trim().replace(/[\x00-\x1f\x7f-\x9f\p{Cs}]+/gu, '_')].slice(0, LONGEST.name).join('');
}

// As an identifier; \p{L}, \p{N} and _ are Python's \w.
function clean(text) {
  return [...String(text || '').trim().replace(/[^\p{L}\p{N}_.:/@+-]+/gu, '_')].slice(0, LONGEST.name).join('');
}

function withoutEmpty(object) {
  return Object.fromEntries(Object.entries(object).filter(([, text]) => text));
}
