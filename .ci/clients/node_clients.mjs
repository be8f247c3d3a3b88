// Calls a running service by clients for JavaScript; `node node_clients.mjs URL` in a folder where
// they are installed. Compares each result with the service's own route; exits with 1 on a failure.
import assert from "node:assert"

const url = process.argv[2]
const texts = Array.from({ length: 1100 }, (_, i) => `question ${i}: where is my card?`)
const documents = ["opening hours", "a stolen card", "the weather"]
let failed = false

async function expected(texts, target) {
  const rows = []
  for (let i = 0; i < texts.length; i += 256) {
    const response = await fetch(url + "/embed/minilm", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ items: texts.slice(i, i + 256), ...(target && { target }) }),
    })
    rows.push(...(await response.json()).embeddings)
  }
  return rows
}

function check(actual, wanted) {
  assert.equal(actual.length, wanted.length)
  actual.forEach((row, i) => {
    assert.equal(row.length, wanted[i].length)
    row.forEach((x, j) => assert(Math.abs(x - wanted[i][j]) < 1e-4))
  })
}

async function client(name, calls) {
  try {
    await calls()
    console.log("ok", name)
  } catch (error) {
    failed = true
    console.log("FAILED", name, error)
  }
}

await client("openai", async () => {
  const { OpenAI } = await import("openai")
  const client = new OpenAI({ baseURL: url + "/v1", apiKey: "unused" })
  const response = await client.embeddings.create({ model: "minilm->other", input: texts.slice(0, 90) })
  check(response.data.map((row) => row.embedding), await expected(texts.slice(0, 90), "other"))
  const names = []
  for await (const model of client.models.list()) names.push(model.id)
  assert(names.includes("minilm->other"))
})
await client("@langchain/openai", async () => {
  const { OpenAIEmbeddings } = await import("@langchain/openai")
  const embeddings = new OpenAIEmbeddings({
    model: "minilm",
    apiKey: "unused",
    configuration: { baseURL: url + "/v1" },
  })
  check(await embeddings.embedDocuments(texts), await expected(texts))
  check([await embeddings.embedQuery(texts[0])], await expected(texts.slice(0, 1)))
})
await client("ai", async () => {
  const { embed, embedMany } = await import("ai")
  const { createOpenAI } = await import("@ai-sdk/openai")
  const { createOpenAICompatible } = await import("@ai-sdk/openai-compatible")
  const wanted = await expected(texts)
  for (const provider of [
    createOpenAI({ baseURL: url + "/v1", apiKey: "unused" }),
    createOpenAICompatible({ name: "stitchwork", baseURL: url + "/v1" }),
  ]) {
    const model = provider.textEmbeddingModel("minilm")
    check((await embedMany({ model, values: texts })).embeddings, wanted)
    check([(await embed({ model, value: texts[0] })).embedding], wanted.slice(0, 1))
  }
})
await client("@huggingface/inference", async () => {
  const { InferenceClient } = await import("@huggingface/inference")
  const client = new InferenceClient(undefined, { endpointUrl: url + "/tei/minilm" })
  const rows = await client.featureExtraction({ inputs: texts.slice(0, 9), normalize: false })
  check(rows, await expected(texts.slice(0, 9)))
})
await client("cohere-ai", async () => {
  const { CohereClient } = await import("cohere-ai")
  const client = new CohereClient({ token: "unused", environment: url })
  const query = "the card was stolen"
  const response = await client.rerank({ model: "minilm", query, documents, topN: 2 })
  assert.equal(response.results[0].index, 1)
})
process.exit(failed ? 1 : 0)
