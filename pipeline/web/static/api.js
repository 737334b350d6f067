// What the server says, or an error in words that a person can act on.
export class ApiError extends Error {
  constructor(message, status, kind) { super(message); this.status = status; this.kind = kind; }
}

export async function call(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { headers: { 'content-type': 'application/json' }, ...options });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new ApiError('The service does not answer. Is it still running?', 0, 'away');
  }
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new ApiError(told.error || `The server answered ${answer.status}.`, answer.status, told.kind);
  return told;
}

export const post = (path, body) => call(path, { method: 'POST', body: JSON.stringify(body) });

// Rows as objects by column name, with where they come from.
export async function figure(name, values, signal) {
  const query = new URLSearchParams(Object.entries(values).filter(([, value]) => value !== '' && value !== undefined));
  const told = await call(`/api/figures/${name}?${query}`, { signal });
  told.list = told.rows.map((row) => Object.fromEntries(told.columns.map((column, index) => [column, row[index]])));
  return told;
}
