// One chat call by OpenAI's own SDK, whole or streamed, told on standard output as one line of JSON.
// usage: BASE_URL=… API_KEY=… node call.mjs chat|stream
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.env.BASE_URL, apiKey: process.env.API_KEY, maxRetries: 0, timeout: 20_000 });
const question = { model: "gpt-4o-mini", messages: [{ role: "user", content: "Say hello." }] };

async function chat() {
  const answer = await client.chat.completions.create(question);
  const [choice] = answer.choices;
  return { content: choice.message.content, finish_reason: choice.finish_reason, usage: answer.usage };
}

async function stream() {
  const chunks = await client.chat.completions.create({
    ...question,
    stream: true,
    stream_options: { include_usage: true },
  });
  const told = { content: "", finish_reason: null, usage: null, chunks: 0 };
  for await (const chunk of chunks) {
    told.chunks += 1;
    told.content += chunk.choices[0]?.delta?.content ?? "";
    told.finish_reason = chunk.choices[0]?.finish_reason ?? told.finish_reason;
    told.usage = chunk.usage ?? told.usage;
  }
  return told;
}

const modes = { chat, stream };
console.log(JSON.stringify(await modes[process.argv[2]]()));
