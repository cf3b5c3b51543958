// The REST API, with the session's cookie and its CSRF token.

/** What went wrong, in a sentence for a person; `status`, `code` and `param` are the API's. */
export class ApiError extends Error {
  constructor(message, { status = 0, code = "", param = null } = {}) {
    super(message);
    this.name = "ApiError";
    this.status = status;
    this.code = code;
    this.param = param;
  }
}

/**
 * Ask the API, and return what it answers.
 *
 * `signal` aborts it; `as: "text"` returns the text instead of the JSON; `headers` are added.
 * Throws an ApiError whose message is a sentence for a person.
 */
export async function call(method, path, data = undefined, { signal, as = "json", headers = {} } = {}) {
  const token = document.querySelector("input[name=csrfmiddlewaretoken]")?.value ?? "";
  let response;
  try {
    response = await fetch(path, {
      method,
      headers: {
        Accept: as === "json" ? "application/json" : "text/html",
        "X-CSRFToken": token,
        ...(data === undefined ? {} : { "Content-Type": "application/json" }),
        ...headers,
      },
      body: data === undefined ? undefined : JSON.stringify(data),
      credentials: "same-origin",
      signal,
    });
  } catch (error) {
    if (error.name === "AbortError") {
      throw error;
    }
    throw new ApiError("The site does not answer. Is it still running?");
  }
  if (as === "text" && response.ok) {
    return response.text();
  }
  const body = await response.json().catch(() => null);
  if (!response.ok) {
    const { message, code, param } = body?.error ?? {};
    throw new ApiError(message ?? `The site answered with status ${response.status}.`, {
      status: response.status,
      code,
      param,
    });
  }
  return body;
}
