"""What test_openai.py runs in its virtual environment: the openai package against a server. usage: openai_client.py URL KEY"""
import math
import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key=sys.argv[2], max_retries=0)
MODEL = "austen"
PROMPT = "It is a truth universally acknowledged"
USER = [{"role": "user", "content": "Who is Emma?"}]


def raises(kind, call, param=None):
    try:
        call()
    except kind as error:
        assert param is None or error.param == param, (error.param, param)
        return error
    raise AssertionError("no %s" % kind.__name__)


def completions():
    reply = client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=8, n=3, seed=1, logprobs=2)
    assert [c.index for c in reply.choices] == [0, 1, 2] and reply.usage.completion_tokens == 24
    for choice in reply.choices:
        assert len(choice.logprobs.tokens) == len(choice.logprobs.token_logprobs) == 8 and choice.finish_reason == "length"
        assert all(top[token] == logprob for token, logprob, top in
                   zip(choice.logprobs.tokens, choice.logprobs.token_logprobs, choice.logprobs.top_logprobs))
    plain = client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=20, temperature=0)
    chunks = list(client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=20, temperature=0, stream=True,
                                            stream_options={"include_usage": True}))
    assert "".join(c.choices[0].text for c in chunks if c.choices) == plain.choices[0].text
    assert chunks[-1].usage.completion_tokens == 20 and not chunks[-1].choices
    sparse = client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=1, extra_body={"attention": "strided", "top_k": 5})
    assert sparse.attention_report["backend"] == "strided"


def chat():
    reply = client.chat.completions.create(model=MODEL, messages=USER, max_completion_tokens=9, n=3, seed=2, logprobs=True,
                                           top_logprobs=2)
    assert len(reply.choices) == 3
    for choice in reply.choices:
        assert choice.message.role == "assistant" and len(choice.logprobs.content) == reply.usage.completion_tokens // 3
        assert all(math.isfinite(row.logprob) and len(row.top_logprobs) == 2 for row in choice.logprobs.content)
    texts = {}
    for chunk in client.chat.completions.create(model=MODEL, messages=USER, max_tokens=9, n=3, seed=2, stream=True):
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
    assert [texts[i] for i in range(3)] == [c.message.content for c in reply.choices]


def embeddings():
    packed = client.embeddings.create(model=MODEL, input=["Emma", "Mr. Darcy"])  # the package asks for base64
    plain = client.embeddings.create(model=MODEL, input=["Emma", "Mr. Darcy"], encoding_format="float")
    for a, b in zip(packed.data, plain.data):
        assert len(a.embedding) > 100 and max(abs(x - y) for x, y in zip(a.embedding, b.embedding)) < 1e-6
    assert len(client.embeddings.create(model=MODEL, input="Emma", dimensions=16).data[0].embedding) == 16


def models():
    assert [m.id for m in client.models.list()] == [MODEL] and client.models.retrieve(MODEL).id == MODEL


def errors():
    bad = raises(openai.BadRequestError, lambda: client.completions.create(model=MODEL, prompt="a", temperature=101), "temperature")
    assert bad.status_code == 400 and bad.type == "invalid_request_error"
    raises(openai.BadRequestError, lambda: client.chat.completions.create(model=MODEL, messages=[]), "messages")
    raises(openai.BadRequestError, lambda: client.completions.create(model=MODEL, prompt="a", stream=True, logprobs=21), "logprobs")
    raises(openai.BadRequestError, lambda: client.embeddings.create(model=MODEL, input="a", dimensions=0), "dimensions")
    raises(openai.NotFoundError, lambda: client.completions.create(model="gpt-4", prompt="a"), "model")
    raises(openai.NotFoundError, lambda: client.models.retrieve("gpt-4"))


def authentication():
    for key in ("none-of-yours", sys.argv[2] + "x", sys.argv[2][:-1]):
        stranger = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key=key)
        calls = [lambda: stranger.models.list(), lambda: stranger.completions.create(model=MODEL, prompt="a"),
                 lambda: stranger.chat.completions.create(model=MODEL, messages=USER, stream=True),
                 lambda: stranger.embeddings.create(model=MODEL, input="a")]
        for call in calls:
            error = raises(openai.AuthenticationError, call)
            assert error.status_code == 401 and error.type == "authentication_error" and error.body["code"] == 401


def langchain():
    try:
        from langchain_openai import ChatOpenAI
    except ImportError:
        print("      LangChain not run: langchain-openai could not be installed")
        return
    model = ChatOpenAI(model=MODEL, base_url=sys.argv[1] + "/v1", api_key=sys.argv[2], temperature=0, max_tokens=12)
    whole = model.invoke("Who is Emma?").content
    pieces = [chunk.content for chunk in model.stream("Who is Emma?")]
    assert len(pieces) > 3 and "".join(pieces) == whole


for test in (completions, chat, embeddings, models, errors, authentication, langchain):
    test()
    print("ok    %s" % test.__name__, flush=True)
