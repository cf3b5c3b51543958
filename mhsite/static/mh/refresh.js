// Parts of this page as the server has them now. The server alone writes the lists of a page; after a change its
// parts, marked `data-part`, are taken from a fresh copy. The browser reads that as it reads any page, and runs
// nothing in it.

/** The page at this address, as a document. */
function pageNow() {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("GET", window.location.pathname + window.location.search);
    request.responseType = "document";
    request.addEventListener("load", () => (request.response ? resolve(request.response) : reject(new Error("No page came."))));
    request.addEventListener("error", () => reject(new Error("The site does not answer. Is it still running?")));
    request.send();
  });
}

const find = (root, name) => root.querySelector(`[data-part="${CSS.escape(name)}"]`);

/** Put the named parts in place of those shown; returns them. One that is gone on the server goes here, too. */
export async function refresh(...names) {
  const page = await pageNow();
  return names.map((name) => {
    const [old, fresh] = [find(document, name), find(page, name)];
    const part = fresh && document.importNode(fresh, true);
    if (part) {
      old?.replaceWith(part);
    } else {
      old?.remove();
    }
    return part;
  });
}
