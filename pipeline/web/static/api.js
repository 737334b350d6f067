// What the server says, or an error in words that a person can act on.
export class ApiError extends Error {
  constructor(message, status, kind) { super(message); this.status = status; this.kind = kind; }
}

export async function call(path, options = {}) {
  const answer = await fetched(path, options);
  return json(answer);
}

const json = (answer) => answer.json().catch((error) => { if (error.name === 'AbortError') throw error; return {}; });

// The answer itself, of any kind, once it is known to be one.
export async function fetched(path, options = {}) {
  let answer;
  try {
    answer = await (asked_before(path, options) || fetch(path, { headers: { 'content-type': 'application/json' }, ...options }));
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new ApiError('The service does not answer. Is it still running?', 0, 'away');
  }
  if (answer.ok) return answer;
  const told = await json(answer);
  throw new ApiError(told.error || `The server answered ${answer.status}.`, answer.status, told.kind);
}

// What early.js asked while the page still loaded; given out once.
function asked_before(path, options) {
  const answer = options.method ? undefined : window.early.answers.get(path);
  window.early.answers.delete(path);
  return answer;
}

export const post = (path, body, signal) => call(path, { method: 'POST', body: JSON.stringify(body), signal });

// Rows as objects by column name, with where they come from.
export async function figure(name, values, signal) {
  const told = await call(window.early.path(name, values), { signal });
  told.list = told.rows.map((row) => Object.fromEntries(told.columns.map((column, index) => [column, row[index]])));
  return told;
}
