"""Calls a running service by the Python clients of other services, as their users do.

Runs in an environment of its own: `python python_clients.py URL [CLIENT...]`. Compares each result
with what the service's own route answers, and exits with 1 if a call fails or differs.
"""

import asyncio
import json
import math
import sys
import traceback
import urllib.request

TEXTS = [f"question {i}: where is my card?" for i in range(130)]
QUERY = "the card was stolen"
DOCUMENTS = ["opening hours", "a stolen card", "the weather"]


def post(url, path, body):
    request = urllib.request.Request(
        url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        return json.load(response)


def expected(url, texts, target=None):
    fields = {"target": target} if target else {}
    return post(url, "/embed/minilm", {"items": texts, **fields})["embeddings"]


def unit(rows):
    return [[x / math.sqrt(sum(y * y for y in row)) for x in row] for row in rows]


def check(actual, wanted):
    actual, wanted = [list(row) for row in actual], list(wanted)
    assert len(actual) == len(wanted), (len(actual), len(wanted))
    for a, b in zip(actual, wanted, strict=True):
        assert len(a) == len(b), (len(a), len(b))
        assert max(abs(x - y) for x, y in zip(a, b, strict=True)) < 1e-4


def check_ranking(results):
    results = list(results)
    assert results[0][0] == 1, results
    assert [score for _, score in results] == sorted((s for _, s in results), reverse=True)


def openai(url):
    import openai

    client = openai.OpenAI(base_url=url + "/v1", api_key="unused")
    response = client.embeddings.create(model="minilm->other", input=TEXTS, user="u")
    check([row.embedding for row in response.data], expected(url, TEXTS, "other"))
    assert {"minilm", "minilm->other"} <= {model.id for model in client.models.list()}
    code = None
    try:
        client.embeddings.create(model="nobody", input="a")
    except openai.NotFoundError as error:
        code = error.code
    assert code == "model_not_found"


def langchain_openai(url):
    from langchain_openai import OpenAIEmbeddings

    embeddings = OpenAIEmbeddings(
        model="minilm->other",
        base_url=url + "/v1",
        api_key="unused",
        check_embedding_ctx_length=False,
    )
    check(embeddings.embed_documents(TEXTS), expected(url, TEXTS, "other"))
    check([embeddings.embed_query(QUERY)], expected(url, [QUERY], "other"))
    check([asyncio.run(embeddings.aembed_query(QUERY))], expected(url, [QUERY], "other"))


def llama_index(url):
    from llama_index.embeddings.openai_like import OpenAILikeEmbedding
    from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference

    client = OpenAILikeEmbedding(model_name="minilm", api_base=url + "/v1", api_key="unused")
    check(client.get_text_embedding_batch(TEXTS), expected(url, TEXTS))
    check([client.get_query_embedding(QUERY)], expected(url, [QUERY]))
    client = TextEmbeddingsInference(base_url=url + "/tei/minilm", model_name="minilm")
    check(client.get_text_embedding_batch(TEXTS[:20]), unit(expected(url, TEXTS[:20])))


def haystack(url):
    from haystack import Document
    from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder
    from haystack.utils import Secret

    options = {"model": "minilm", "api_base_url": url + "/v1", "api_key": Secret.from_token("x")}
    embedder = OpenAIDocumentEmbedder(**options, progress_bar=False)
    documents = embedder.run([Document(content=text) for text in TEXTS])["documents"]
    check([document.embedding for document in documents], expected(url, TEXTS))
    check([OpenAITextEmbedder(**options).run(QUERY)["embedding"]], expected(url, [QUERY]))


def litellm(url):
    import litellm

    for model in ("openai/minilm", "hosted_vllm/minilm", "infinity/minilm"):
        response = litellm.embedding(
            model=model, api_base=url + "/v1", api_key="x", input=TEXTS[:9]
        )
        check([row["embedding"] for row in response.data], expected(url, TEXTS[:9]))
    for model, base in (
        ("cohere", "/v1/rerank"),
        ("jina_ai", "/v1/rerank"),
        ("hosted_vllm", "/v1"),
    ):
        response = litellm.rerank(
            model=f"{model}/minilm",
            api_base=url + base,
            api_key="x",
            query=QUERY,
            documents=DOCUMENTS,
            top_n=2,
        )
        check_ranking((row["index"], row["relevance_score"]) for row in response.results)


def cohere(url):
    import cohere

    for kind in (cohere.Client, cohere.ClientV2):
        client = kind(api_key="x", base_url=url)
        response = client.rerank(model="minilm", query=QUERY, documents=DOCUMENTS, top_n=2)
        check_ranking((row.index, row.relevance_score) for row in response.results)


def dspy(url):
    import dspy

    embedder = dspy.Embedder("openai/minilm", api_base=url + "/v1", api_key="x")
    check(embedder(TEXTS[:9]), expected(url, TEXTS[:9]))


def langchain_cohere(url):
    import cohere
    from langchain_cohere import CohereRerank

    client = cohere.ClientV2(api_key="x", base_url=url)
    results = CohereRerank(client=client, model="minilm").rerank(DOCUMENTS, QUERY)
    check_ranking((row["index"], row["relevance_score"]) for row in results)


def langchain_mistralai(url):
    from langchain_mistralai import MistralAIEmbeddings

    embeddings = MistralAIEmbeddings(model="minilm", api_key="x", endpoint=url + "/v1/")
    check(embeddings.embed_documents(TEXTS[:9]), expected(url, TEXTS[:9]))


def mistralai(url):
    from mistralai.client import Mistral

    client = Mistral(api_key="x", server_url=url)
    response = client.embeddings.create(model="minilm", inputs=TEXTS[:9])
    check([row.embedding for row in response.data], expected(url, TEXTS[:9]))


def voyageai(url):
    import voyageai

    client = voyageai.Client(api_key="x", base_url=url + "/v1")
    check(client.embed(TEXTS[:9], model="minilm").embeddings, expected(url, TEXTS[:9]))


def chromadb(url):
    import chromadb.utils.embedding_functions as functions

    function = functions.OpenAIEmbeddingFunction(
        api_key="x", api_base=url + "/v1", model_name="minilm"
    )
    check(function(TEXTS[:9]), expected(url, TEXTS[:9]))
    function = functions.HuggingFaceEmbeddingServer(url=url + "/tei/minilm/embed")
    check(function(TEXTS[:9]), unit(expected(url, TEXTS[:9])))


def pydantic_ai(url):
    from pydantic_ai import Embedder
    from pydantic_ai.embeddings.openai import OpenAIEmbeddingModel
    from pydantic_ai.providers.openai import OpenAIProvider

    provider = OpenAIProvider(base_url=url + "/v1", api_key="x")
    embedder = Embedder(OpenAIEmbeddingModel("minilm", provider=provider))
    check(embedder.embed_documents_sync(TEXTS[:9]).embeddings, expected(url, TEXTS[:9]))


def semantic_kernel(url):
    from openai import AsyncOpenAI
    from semantic_kernel.connectors.ai.open_ai import OpenAITextEmbedding

    client = AsyncOpenAI(base_url=url + "/v1", api_key="x")
    service = OpenAITextEmbedding(ai_model_id="minilm", async_client=client)
    check(asyncio.run(service.generate_embeddings(TEXTS[:9])), expected(url, TEXTS[:9]))


def together(url):
    from together import Together

    client = Together(api_key="x", base_url=url)
    response = client.embeddings.create(model="minilm", input=TEXTS[:9])
    check([row.embedding for row in response.data], expected(url, TEXTS[:9]))
    response = client.rerank.create(model="minilm", query=QUERY, documents=DOCUMENTS, top_n=2)
    check_ranking((row.index, row.relevance_score) for row in response.results)


def xinference(url):
    from xinference_client.client.restful import restful_client

    handle = restful_client.RESTfulEmbeddingModelHandle("minilm", url, auth_headers={})
    rows = handle.create_embedding(TEXTS[:9])["data"]
    check([row["embedding"] for row in rows], expected(url, TEXTS[:9]))
    handle = restful_client.RESTfulRerankModelHandle("minilm", url, auth_headers={})
    results = handle.rerank(DOCUMENTS, QUERY)["results"]
    check_ranking((row["index"], row["relevance_score"]) for row in results)


def agno(url):
    from agno.knowledge.embedder.openai import OpenAIEmbedder

    embedder = OpenAIEmbedder(id="minilm", api_key="x", base_url=url + "/v1", dimensions=384)
    check([embedder.get_embedding(QUERY)], expected(url, [QUERY]))


def mem0(url):
    from mem0.configs.embeddings.base import BaseEmbedderConfig
    from mem0.embeddings.openai import OpenAIEmbedding

    options = {"model": "minilm", "openai_base_url": url + "/v1", "embedding_dims": 384}
    embedding = OpenAIEmbedding(BaseEmbedderConfig(**options, api_key="x"))
    check([embedding.embed(QUERY)], expected(url, [QUERY]))


def langchain_community(url):
    import langchain_community.embeddings as embeddings
    import langchain_community.embeddings.jina as jina

    client = embeddings.InfinityEmbeddings(model="minilm", infinity_api_url=url + "/v1")
    check(client.embed_documents(TEXTS[:9]), expected(url, TEXTS[:9]))
    # It has no option for the address.
    jina.JINA_API_URL = url + "/v1/embeddings"
    client = embeddings.JinaEmbeddings(jina_api_key="x", model_name="minilm")
    check(client.embed_documents(TEXTS[:9]), expected(url, TEXTS[:9]))


def langchain_nvidia(url):
    from langchain_nvidia_ai_endpoints import NVIDIAEmbeddings

    client = NVIDIAEmbeddings(model="unprompted", base_url=url + "/v1", api_key="x")
    check(client.embed_documents(TEXTS[:9]), expected(url, TEXTS[:9]))
    check([client.embed_query(QUERY)], expected(url, [QUERY]))


def llama_index_nvidia(url):
    from llama_index.embeddings.nvidia import NVIDIAEmbedding

    client = NVIDIAEmbedding(model="unprompted", base_url=url + "/v1", api_key="x")
    check(client.get_text_embedding_batch(TEXTS[:9]), expected(url, TEXTS[:9]))


def lancedb(url):
    from lancedb.embeddings import get_registry

    registry = get_registry()
    registry.set_var("key", "x")
    options = {"name": "minilm", "api_key": "$var:key", "base_url": url + "/v1"}
    function = registry.get("openai").create(**options)
    check(function.generate_embeddings(TEXTS[:9]), expected(url, TEXTS[:9]))


def huggingface_hub(url):
    from huggingface_hub import InferenceClient

    client = InferenceClient(url + "/tei/minilm->other")
    wanted = expected(url, TEXTS[:5], "other")
    check(client.feature_extraction(TEXTS[:5], normalize=False), wanted)
    check(client.feature_extraction(TEXTS[0]), unit(wanted[:1]))


CLIENTS = {
    "cohere": cohere,
    "dspy": dspy,
    "haystack": haystack,
    "huggingface_hub": huggingface_hub,
    "langchain_cohere": langchain_cohere,
    "langchain_mistralai": langchain_mistralai,
    "langchain_openai": langchain_openai,
    "litellm": litellm,
    "llama_index": llama_index,
    "mistralai": mistralai,
    "openai": openai,
    "voyageai": voyageai,
    # In a second environment, since their requirements clash with the others'.
    "chromadb": chromadb,
    "pydantic_ai": pydantic_ai,
    "semantic_kernel": semantic_kernel,
    # In a third one.
    "agno": agno,
    "lancedb": lancedb,
    "langchain_community": langchain_community,
    "langchain_nvidia": langchain_nvidia,
    "llama_index_nvidia": llama_index_nvidia,
    "mem0": mem0,
    "together": together,
    "xinference": xinference,
}


def main(url, names):
    failed = []
    for name in names or CLIENTS:
        try:
            CLIENTS[name](url)
        except Exception:
            traceback.print_exc()
            failed.append(name)
        print("FAILED" if name in failed else "ok", name, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
