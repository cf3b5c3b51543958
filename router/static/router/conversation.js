// A conversation apart from the page: what was said, and what of it a model is sent.

export const newConversation = (like = {}) => ({
  target: like.target ?? "",
  system: like.system ?? "",
  options: { ...like.options },
  tools: like.tools ?? "",
  turns: [],
});

const says = (turn) => Boolean(turn.text || turn.tools?.length);

/** Return the turns a model is told of: questions without an answer are left out, but for the last. */
function told(turns) {
  return turns.filter((turn, index) => {
    const next = turns[index + 1];
    return turn.role === "user" ? !next || says(next) : says(turn);
  });
}

function userMessage({ text, images }) {
  if (!images?.length) {
    return { role: "user", content: text };
  }
  const parts = images.map((url) => ({ type: "image_url", image_url: { url } }));
  return { role: "user", content: text ? [{ type: "text", text }, ...parts] : parts };
}

/** An answer, and what its tools gave: models do not go on from a call without a result. */
function assistantMessages({ text, tools }) {
  const calls = (tools ?? []).filter(Boolean);
  if (!calls.length) {
    return [{ role: "assistant", content: text }];
  }
  const named = calls.map((call, index) => ({ ...call, id: call.id || `call-${index}` }));
  return [
    {
      role: "assistant",
      content: text,
      tool_calls: named.map((call) => ({
        id: call.id,
        type: "function",
        function: { name: call.name, arguments: call.arguments },
      })),
    },
    ...named.map((call) => ({ role: "tool", tool_call_id: call.id, content: call.result || "(no result)" })),
  ];
}

/** Return the messages of a request. */
export function messagesOf({ system, turns }) {
  const said = told(turns).flatMap((turn) => (turn.role === "user" ? [userMessage(turn)] : assistantMessages(turn)));
  return system.trim() ? [{ role: "system", content: system }, ...said] : said;
}

/** Return what is kept of a conversation: images are too large for a browser's storage. */
export function kept(conversation) {
  const turns = conversation.turns.map(({ images, ...turn }) =>
    images?.length ? { ...turn, imageCount: images.length } : turn,
  );
  return { ...conversation, turns };
}
