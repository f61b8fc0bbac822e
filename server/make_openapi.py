"""Writes the OpenAPI document that GET /openapi.json serves, as a C array: usage: make_openapi.py OUTPUT.h

The document is made here, where a schema is written once and used by every route that takes it. Strings that begin with $
stand for what the loaded model decides; server/api_openapi.c fills them in. tests/http/test_openapi.py holds it against the
route table and the reference, test_schemathesis.py against the server.
"""

import json
import sys


def ref(name):
    return {"$ref": "#/components/schemas/" + name}


def maybe(kind, **more):
    """null means the default."""
    return dict(type=[kind, "null"], **more)


def number(low, high):
    return maybe("number", minimum=low, maximum=high)


def above(low, high):
    return maybe("number", exclusiveMinimum=low, maximum=high)


def integer(low, high, **more):
    return maybe("integer", minimum=low, maximum=high, **more)


def flag(text):
    return maybe("boolean", description=text)


def array(items, **more):
    return dict(type="array", items=items, **more)


def record(required, closed=False, **members):
    """An object; required names members between blanks."""
    out = dict(type="object", properties=members)
    if required:
        out["required"] = required.split()
    if closed:
        out["additionalProperties"] = False
    return out


TEXT, COUNT, TRUTH, REAL = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}, {"type": "number"}
ANYTHING = {"description": "Accepted and ignored."}
NONE = {"type": "null"}
IDS = array(ref("TokenId"), minItems=1)
TEXTS = {"anyOf": [TEXT, array(TEXT, minItems=1, maxItems=128), IDS, array(IDS, minItems=1, maxItems=128)]}
MODEL = {"anyOf": [{"enum": "$MODELS"}, NONE], "description": "The loaded model, or MODEL:NAME of an adapter; another is 404."}
ATTENTION = {"anyOf": [NONE, ref("Attention")]}
SPECIAL = flag("What the tokenizer puts before or behind a text.")
NUMBERS = maybe("array", items=COUNT, minItems=1)
STREAM = "data: frames with chunks, then data: [DONE]"

SHARED = {
    "model": MODEL,
    "max_tokens": integer(0, "$CONTEXT"),
    "min_tokens": integer(0, "$CONTEXT", description="At most max_tokens."),
    "n": integer(1, 16),
    "temperature": number(0, 100),
    "top_p": above(0, 1),
    "top_k": integer(-1, "$VOCAB"),
    "min_p": number(0, 1),
    "presence_penalty": number(-2, 2),
    "frequency_penalty": number(-2, 2),
    "repetition_penalty": above(0, 100),
    "logit_bias": maybe("object", maxProperties=1024, propertyNames={"pattern": "^(0|[1-9][0-9]*)$"},
                        additionalProperties=dict(REAL, minimum=-100, maximum=100), description="Token ids as decimal keys."),
    "seed": integer(-(2**63), 2**63 - 1, format="int64"),
    "stop": {"anyOf": [NONE, ref("StopText"), array(ref("StopText"), maxItems=16)]},
    "stop_token_ids": maybe("array", items=ref("TokenId"), maxItems=64),
    "ignore_eos": flag("Write on past the end of text."),
    "return_token_ids": flag("Choices carry prompt_token_ids and token_ids."),
    "stream": flag("Server-sent events."),
    "stream_options": maybe("object", description="With stream only.", properties={
        "include_usage": flag("A last frame with usage."),
        "continuous_usage_stats": flag("Usage in every frame; with include_usage only.")}),
    "attention": ATTENTION,
    "cache_salt": maybe("string"),
    "user": ANYTHING,
    "metadata": ANYTHING,
    "store": ANYTHING,
    "service_tier": ANYTHING,
    "best_of": {"enum": [1, None]},
    "suffix": NONE,
    "prompt_logprobs": NONE,
    "tools": maybe("array", maxItems=0),
    "functions": maybe("array", maxItems=0),
    "tool_choice": {"enum": ["none", "auto", None]},
    "response_format": maybe("object", properties={"type": {"const": "text"}}, required=["type"]),
}  # fmt: skip

LOGPROB = {"token": TEXT, "logprob": dict(REAL, maximum=0.001), "bytes": array(dict(COUNT, maximum=255))}
SECONDS = dict(REAL, minimum=0, description="Where there are API keys whole milliseconds, rounded at random.")
PHASE = record("tokens edges pairs", tokens=COUNT, edges=COUNT, pairs=COUNT, density=maybe("number"), sparsity=maybe("number"),
               predict_seconds=SECONDS, attend_seconds=SECONDS)  # fmt: skip
CHOICE = dict(index=COUNT, finish_reason={"enum": ["stop", "length"]}, prompt_token_ids=IDS, token_ids=array(ref("TokenId")),
              attention_report=ref("AttentionReport"))  # fmt: skip
LEGACY = maybe("object", required="tokens token_logprobs top_logprobs text_offset".split(), properties={
    "tokens": array(TEXT), "token_logprobs": array(maybe("number")), "text_offset": array(COUNT),
    "top_logprobs": array(maybe("object", additionalProperties=REAL))})  # fmt: skip
ROWS = maybe("object", required=["content", "refusal"], properties={
    "content": array(record("token logprob bytes top_logprobs", top_logprobs=array(record("token logprob bytes", **LOGPROB)), **LOGPROB)),
    "refusal": NONE})  # fmt: skip


def reply(name, choice):
    return record("id object created model choices usage attention_report timings", id=TEXT, object={"const": name}, created=COUNT, model=TEXT,
                  system_fingerprint=TEXT, choices=array(choice), usage=ref("Usage"), attention_report=ref("AttentionReport"),
                  timings=ref("Timings"))  # fmt: skip


def tokenize(name, value):
    """One of the three names under which a text may come."""
    return record(name, **{**{other: NONE for other in ("prompt", "content", "inputs")}, name: value})


SCHEMAS = {
    "TokenId": dict(COUNT, maximum="$VOCAB_LAST"),
    "StopText": dict(TEXT, minLength=1, maxLength=1024, description="1 to 1,024 bytes."),
    "Attention": {
        "description": "A backend's name or an object; GET /v1/attention/backends has parameters and ranges.",
        "anyOf": [{"enum": "$BACKENDS"}, record("", True, backend={"anyOf": [{"enum": "$BACKENDS"}, NONE]}, params=maybe("object"),
            normalizer={"anyOf": [{"enum": ["model", "softmax", "entmax15", "sparsemax", None]},
                                  record("alpha", True, alpha={"type": "number", "exclusiveMinimum": 1, "maximum": 2})]},
            heads={"enum": ["merged", "interleaved", "multihead", None]}, device={"enum": ["auto", "cpu", None]}, strict=maybe("boolean"),
            measure=flag("Figures of every head in the report."),
            capture={"anyOf": [{"type": ["boolean", "null"]}, record("", True, layers=NUMBERS, heads=NUMBERS)],
                     "description": "Of text that is generated: keeps the run for attention graphs."})],
    },
    "Error": record("error", True, error=record("message type param code", True, message=TEXT, param=maybe("string"),
        type={"enum": ["invalid_request_error", "exceed_context_size_error", "authentication_error", "permission_error", "not_found_error",
                       "conflict_error", "rate_limit_error", "server_error", "not_supported_error", "unavailable_error"]},
        code={"type": "integer", "minimum": 400, "maximum": 599}, n_prompt_tokens=COUNT, n_ctx=COUNT)),
    "Usage": record("prompt_tokens total_tokens", prompt_tokens=COUNT, completion_tokens=COUNT, total_tokens=COUNT,
                    prompt_tokens_details=record("cached_tokens", cached_tokens=COUNT)),
    "AttentionReport": record("backend prefill decode trained", backend=TEXT, params={"type": "object"}, normalizer={"type": ["object", "string"]},
                              prefill=PHASE, decode=PHASE, trained=TRUTH, batch_invariant=TRUTH, notes=array(TEXT)),
    "Timings": record("queue_seconds prefill_seconds first_token_seconds decode_tokens_per_second", True, queue_seconds=REAL,
                      prefill_seconds=REAL, first_token_seconds=REAL, decode_tokens_per_second=maybe("number")),
    "CompletionRequest": record("prompt", prompt=TEXTS, logprobs=integer(0, 20), echo=flag("Text and logprobs begin with the prompt's."),
                                add_special_tokens=SPECIAL, **SHARED),
    "Completion": reply("text_completion", record("index text logprobs finish_reason", text=TEXT, logprobs=LEGACY, **CHOICE)),
    "Message": record("role content", role={"enum": ["system", "developer", "user", "assistant"]}, function_call=NONE,
                      content={"anyOf": [TEXT, array(record("type text", type={"const": "text"}, text=TEXT))]},
                      tool_calls=maybe("array", maxItems=0)),
    "ChatRequest": record("messages", messages=array(ref("Message"), minItems=1), max_completion_tokens=integer(0, "$CONTEXT"),
                          logprobs=flag("A row for every token."), top_logprobs=integer(0, 20, description="With logprobs only."), **SHARED),
    "Chat": reply("chat.completion", record("index message logprobs finish_reason", logprobs=ROWS, **CHOICE,
        message=record("role content refusal", role={"const": "assistant"}, content=TEXT, refusal=NONE))),
    "EmbeddingRequest": record("input", input=TEXTS, model=MODEL, encoding_format={"enum": ["float", "base64", None]},
                               dimensions=integer(1, "$HIDDEN"), pooling={"enum": ["mean", "last", None]}, user=ANYTHING,
                               normalize=flag("Scaled to length 1."), attention=ATTENTION, add_special_tokens=SPECIAL,
                               cache_salt=maybe("string")),
    "Embeddings": record("object data model usage", object={"const": "list"}, model=TEXT, usage=ref("Usage"),
        attention_report=ref("AttentionReport"), data=array(record("object index embedding", object={"const": "embedding"}, index=COUNT,
                                                                   embedding={"anyOf": [array(REAL), TEXT]}))),
    "ScoreRequest": record("input", True, input=TEXTS, model=MODEL, min_context=integer(0, "$CONTEXT"), attention=ATTENTION),
    "Score": record("object model data usage attention_report", object={"const": "score"}, model=TEXT, usage=ref("Usage"),
        attention_report=ref("AttentionReport"), data=array(record(
            "index token_ids tokens token_logprobs n_scored nll perplexity bits_per_byte", index=COUNT, token_ids=IDS, tokens=array(TEXT),
            offsets=array(array(COUNT)), token_logprobs=array(maybe("number")), n_scored=COUNT, nll=REAL, perplexity=maybe("number"),
            bytes_scored=COUNT, bits_per_byte=maybe("number")))),
    "TokenizeRequest": {
        "anyOf": [tokenize("prompt", TEXT), tokenize("content", TEXT),
                  tokenize("inputs", {"anyOf": [TEXT, array(TEXT, minItems=1, maxItems=128)]})],
        "properties": {"model": MODEL, "add_special_tokens": SPECIAL, "add_special": SPECIAL, "with_pieces": flag("tokens are objects."),
                       "parse_special": flag("Special tokens written in the text are recognised; true without it."),
                       "return_token_strs": flag("Fills token_strs.")},
    },
    "Tokens": {"anyOf": [
        record("count max_model_len tokens token_strs", count=COUNT, max_model_len=COUNT, token_strs=maybe("array", items=TEXT),
               tokens=array({"anyOf": [ref("TokenId"), record("id piece", id=ref("TokenId"), piece={})]})),
        array(array(record("id text special start stop", id=ref("TokenId"), text=TEXT, special=TRUTH, start=COUNT, stop=COUNT)))]},
    "DetokenizeRequest": record("tokens", tokens=array(ref("TokenId")), model=MODEL),
    "TokenizerInfo": record("bos_token eos_token pad_token chat_template", bos_token=maybe("string"), eos_token=maybe("string"),
                            pad_token=maybe("string"), chat_template=maybe("string"), chat_family=maybe("string"), add_bos_token=TRUTH,
                            vocab_size=COUNT, model_max_length=COUNT),
    "Model": record("id object created owned_by", id=TEXT, object={"const": "model"}, created=COUNT, owned_by=TEXT, root=TEXT,
                    parent=maybe("string"), max_model_len=COUNT, meta={"type": "object"}, attention_backends=array(TEXT), tasks=array(TEXT),
                    attention_needs_fit=array(TEXT), attention_fit=maybe("object")),
    "Backend": record("name summary caps params available", name=TEXT, summary=TEXT, caps=array(TEXT), params=array({"type": "object"}),
                      available=TRUTH, why=maybe("string")),
    "CaptureRequest": record("input", True, input={"anyOf": [TEXT, IDS]}, model=MODEL, attention=ATTENTION, layers=NUMBERS, heads=NUMBERS,
                             gold=maybe("object"), labels=maybe("object"), pair=NONE, target=NONE),
    "Capture": record("id object state n_query n_key layers heads bytes expires", id=TEXT, object={"const": "attention.capture"}, n_query=COUNT,
                      state={"enum": ["running", "ready", "failed"]}, n_key=COUNT, layers=array(COUNT), heads=array(COUNT), bytes=COUNT,
                      expires=COUNT, provenance={"type": "object"}),
    "Running": record("id route state tokens seconds", True, id=TEXT, route=TEXT, tokens=COUNT, seconds=REAL,
                      state={"enum": ["waiting", "prefill", "decode", "running"]}),
}  # fmt: skip

REFUSALS = {
    "400": "Malformed head or body; param names the member.",
    "401": "No key, or one that is not valid.",
    "403": "A Host that is not allowed.",
    "404": "No such route, model or request.",
    "405": "Another method; Allow names those there are.",
    "408": "Head or body came too slowly.",
    "409": "Cancelled by DELETE /v1/requests/{id}.",
    "410": "The capture has left.",
    "411": "No length.",
    "413": "Too large.",
    "415": "Not the content type that the route takes.",
    "429": "The queue is full.",
    "500": "The server's mistake.",
    "503": "Loading, stopping, out of memory, or it took too long.",
}
HEADERS = {"401": "WWW-Authenticate", "405": "Allow", "429": "Retry-After"}
JSON, BYTES = "application/json", "application/octet-stream"
PATHS = {}


def route(method, paths, summary, reply, body=None, content=JSON, codes="", public=False, stream=False, parameters=None, also=None):
    """codes: refusals beside those that every route has; also: other statuses that are no refusal."""
    operation = {"summary": summary}
    if public:
        operation["security"] = [{}]
    if parameters:
        operation["parameters"] = parameters
    if body:
        operation["requestBody"] = {"required": True, "content": {BYTES if content == BYTES else JSON: {"schema": body}}}
    shown = {content: {"schema": reply}}
    if stream:
        shown["text/event-stream"] = {"schema": {"description": STREAM}}
    operation["responses"] = {"200": {"description": "OK", "content": shown}} if "201" not in (also or {}) else {}
    operation["responses"].update(also or {})
    codes = {"400", "403", "405", "408", "503", *codes.split(), *([] if public else ["401"]), *("411 413 415 500".split() if body else [])}
    for code in sorted(codes):
        operation["responses"][code] = {"$ref": "#/components/responses/" + code}
    for path in paths.split():
        PATHS.setdefault(path, {})[method] = operation


def one_of(name):
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}]


def listing(item):
    return record("object data", object={"const": "list"}, data=array(item))


def make_routes():
    work, anything = "404 409 429", {"type": "object"}
    tensors = {"type": "string", "format": "binary", "description": "safetensors"}
    metrics = [{"name": "metrics", "in": "query", "schema": {"enum": ["true", "false"]}},
               {"name": "model", "in": "query", "schema": TEXT}]
    ok = record("status", status={"const": "ok"})
    route("post", "/v1/completions /completions", "Continues a prompt.", ref("Completion"), ref("CompletionRequest"), codes=work, stream=True)
    route("post", "/v1/chat/completions /chat/completions", "Continues a chat.", ref("Chat"), ref("ChatRequest"), codes=work, stream=True)
    route("post", "/v1/embeddings /embeddings", "Texts as vectors.", ref("Embeddings"), ref("EmbeddingRequest"), codes=work)
    route("post", "/v1/score", "How probable the model finds texts.", ref("Score"), ref("ScoreRequest"), codes=work)
    route("post", "/tokenize", "A text as ids.", ref("Tokens"), ref("TokenizeRequest"), codes="404")
    route("post", "/detokenize", "Ids as text.", record("content prompt", content=TEXT, prompt=TEXT), ref("DetokenizeRequest"), codes="404")
    route("get", "/tokenizer_info", "Special tokens and the chat template.", ref("TokenizerInfo"))
    route("get", "/v1/models /models", "The loaded model and its adapters.", listing(ref("Model")))
    route("get", "/v1/models/{model} /models/{model}", "One of them.", ref("Model"), codes="404", parameters=one_of("model"))
    route("get", "/v1/attention/backends", "Attention backends.", listing(ref("Backend")))
    route("post", "/v1/attention/apply", "One attention layer on tensors.", tensors, tensors, BYTES, "404 409 429", parameters=metrics)
    route("get", "/v1/limits", "Every limit in force.", anything)
    route("get", "/v1/requests", "What is being answered for the same key.", listing(ref("Running")))
    cancelled = record("id object cancelled", True, id=TEXT, object={"const": "request"}, cancelled={"const": True})
    route("delete", "/v1/requests/{id}", "Cancels one of them.", cancelled, codes="404", parameters=one_of("id"))
    route("get", "/health /health/ready /v2/health/ready", "200 when requests are taken.", ok, public=True)
    route("get", "/health/live /v2/health/live", "200 as long as the process answers.", ok, public=True)
    route("get", "/metrics", "Prometheus text.", TEXT, content="text/plain")
    route("get", "/openapi.json", "This document.", anything)


def make_graph_routes():
    """Captures and the graphs of their heads; the reference has their parameters."""
    base, anything = "/v1/attention/captures", {"type": "object"}
    one = one_of("id")
    whole = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
    made = {"201": {"description": "Made; Location names it.", "content": {JSON: {"schema": ref("Capture")}},
                    "headers": {"Location": {"schema": TEXT}}}}  # fmt: skip
    later = {"202": {"description": "Not ready; ask again.", "content": {JSON: {"schema": anything}}}}
    deleted = record("id object deleted", True, id=TEXT, object={"const": "attention.capture"}, deleted={"const": True})
    route("post", base, "Runs an input once and keeps what graphs are made of.", ref("Capture"), ref("CaptureRequest"), codes="404 409 429", also=made)
    route("get", base + "/{id}", "The state of a capture.", ref("Capture"), codes="404 410", parameters=one, also=later)
    route("delete", base + "/{id}", "Frees a capture.", deleted, codes="404 410", parameters=one)
    route("post", base + "/{id}/sweep", "Other attentions over the same queries and keys.", anything, anything, codes="404 409 410 413 429",
          parameters=one, also=later)  # fmt: skip
    both = [{"name": name, "in": "query", "required": name != "graph", "schema": TEXT} for name in ("a", "b", "layer", "head", "graph")]
    route("get", "/v1/attention/compare", "Edges that two captures share.", anything, codes="404 409 410", parameters=both, also=later)
    route("get", "/v1/attention/schema", "JSON Schema of every answer about graphs.", anything)
    empty = dict(later, **{"204": {"description": "An empty tile."}, "304": {"description": "As it was."}})
    graphs = {"tokens": "Its tokens.", "heads": "The numbers of every head.", "heads/{layer}/{head}/edges": "A slice of a head's graph.",
              "heads/{layer}/{head}/rows/{row}": "What a position reads.", "heads/{layer}/{head}/cols/{column}": "Who reads a position.",
              "heads/{layer}/{head}/tiles/{z}/{ty}/{tx}": "Bins of a head's graph.", "overview": "All heads of a layer.",
              "aggregate": "One graph of many heads.", "labels": "Edges between labels.", "sweeps/{job}": "A sweep of attentions.",
              "heads/{layer}/{head}/clusters": "The clusters of a head.",
              "heads/{layer}/{head}/clusters/{cluster}": "The members of a cluster.", "export": "Graphs as files."}  # fmt: skip
    for path, summary in graphs.items():
        places = [{"name": part[1:-1], "in": "path", "required": True, "schema": TEXT if part == "{job}" else whole}
                  for part in path.split("/") if part[0] == "{"]  # fmt: skip
        route("get", base + "/{id}/" + path, summary, anything, codes="404 410 413", parameters=one + places, also=empty)
        PATHS[base + "/{id}/" + path]["get"]["responses"]["200"]["content"]["*/*"] = {}


def refusal(code, text):
    out = {"description": text, "content": {JSON: {"schema": ref("Error")}}}
    if code in HEADERS:
        out["headers"] = {HEADERS[code]: {"schema": TEXT}}
    return out


def document():
    make_routes()
    make_graph_routes()
    about = ("An inference daemon whose attention every request chooses. null means a member's default; routes of OpenAI's shape ignore unknown "
             "members. What no schema says, such as that prompt and answer fit the context, is answered 400 naming the member.")  # fmt: skip
    components = {"schemas": SCHEMAS, "responses": {code: refusal(code, text) for code, text in REFUSALS.items()}}
    components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"},
                                     "header": {"type": "apiKey", "in": "header", "name": "X-Api-Key"}}  # fmt: skip
    info = {"title": "sparsed", "version": "$VERSION", "description": about, "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}}
    return {"openapi": "3.1.0", "info": info, "servers": [{"url": "/"}], "security": [{"bearer": []}, {"header": []}], "paths": PATHS,
            "components": components}  # fmt: skip


def main(path):
    data = json.dumps(document(), separators=(",", ":")).encode()
    with open(path, "w", encoding="ascii") as out:
        out.write("static const char openapi_text[] = {\n")
        for at in range(0, len(data), 24):
            out.write(" ".join("%d," % byte for byte in data[at : at + 24]) + "\n")
        out.write("0};\n")


main(sys.argv[1])
