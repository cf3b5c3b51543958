// The REST API, with the session's cookie and its CSRF token.

/** Throws an Error whose message is a sentence for a person, with the `param` at fault, `code` and `status`. */
export async function call(method, path, data = undefined) {
  const token = document.querySelector("input[name=csrfmiddlewaretoken]")?.value ?? "";
  let response;
  try {
    response = await fetch(path, {
      method,
      headers: {
        Accept: "application/json",
        "X-CSRFToken": token,
        ...(data === undefined ? {} : { "Content-Type": "application/json" }),
      },
      body: data === undefined ? undefined : JSON.stringify(data),
      credentials: "same-origin",
    });
  } catch {
    throw new Error("The site does not answer. Is it still running?");
  }
  const body = await response.json().catch(() => null);
  if (!response.ok) {
    const { message, param = null, code = null } = body?.error ?? {};
    const error = new Error(message ?? `The site answered with status ${response.status}.`);
    throw Object.assign(error, { param, code, status: response.status });
  }
  return body;
}
