"""GET /openapi.json: every route of the table and no other, what the reference says of members, bounds of the loaded model,
references that resolve; and what real replies look like against its schemas. test_schemathesis.py makes requests from it."""
import os
import re
import sys

sys.path.insert(0, os.path.join(sys.argv[1], "tests", "support"))
import harness

with open(os.path.join(harness.ROOT, "server", "routes.c")) as file:
    ROUTES = {(method.lower(), path) for method, path in re.findall(r'\{"(GET|POST|DELETE)", "([^"]+)",', file.read())}
with open(os.path.join(harness.ROOT, "server", "README.md"), encoding="utf-8") as file:
    REFERENCE = file.read()


def documented(title):
    section = REFERENCE.split("## %s\n" % title, 1)[1].split("\n## ", 1)[0]
    return {name for row in re.findall(r"^\| (`\w+`[^|]*) \|", section, re.M) for name in re.findall(r"`(\w+)`", row)}


def walk(value):
    yield value
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from walk(child)


def check(document, schema, value, where="reply"):
    """The part of JSON Schema that replies are described with."""
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    if "anyOf" in schema:
        failures = []
        for one in schema["anyOf"]:
            try:
                return check(document, one, value, where)
            except AssertionError as error:
                failures.append(str(error))
        raise AssertionError(failures)
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None), "number": (int, float), "integer": int}
    if "type" in schema:
        names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        good = any(isinstance(value, kinds[name]) and not (isinstance(value, bool) and name in ("number", "integer")) for name in names)
        assert good, (where, names, value)
    assert "const" not in schema or value == schema["const"], (where, value)
    assert "enum" not in schema or value in schema["enum"], (where, value)
    assert "minimum" not in schema or value is None or value >= schema["minimum"], (where, value)
    assert "maximum" not in schema or value is None or value <= schema["maximum"], (where, value)
    if isinstance(value, dict):
        for name in schema.get("required", ()):
            assert name in value, (where, name)
        for name, child in value.items():
            if name in schema.get("properties", {}):
                check(document, schema["properties"][name], child, where + "." + name)
            else:
                assert schema.get("additionalProperties") is not False, (where, name)
    if isinstance(value, list) and "items" in schema:
        for child in value:
            check(document, schema["items"], child, where + "[]")
    return None


def test_document(server):
    reply = server.get("/openapi.json")
    assert reply.status == 200 and reply.headers["content-type"].startswith("application/json")
    document = reply.json()
    assert document["openapi"].startswith("3.1") and document["info"]["version"] == "0.1.0"
    there = {(method, path) for path, item in document["paths"].items() for method in item}
    # the table has one row for all that lies below a capture
    graphs = {one for one in there if re.match(r"/v1/attention/captures/\{", one[1])}
    below = {(method, path) for method, path in ROUTES if re.match(r"/v1/attention/captures/\{", path)}
    assert there - graphs == ROUTES - below, (there - graphs) ^ (ROUTES - below)
    assert len(graphs) >= 3 and {method for method, _ in graphs} == {method for method, _ in below}
    for node in walk(document):
        if isinstance(node, dict) and "$ref" in node:
            target = document
            for part in node["$ref"].split("/")[1:]:
                target = target[part]
        assert not (isinstance(node, str) and node.startswith("$")), node
    public = {path for path, item in document["paths"].items() if all(o.get("security") == [{}] for o in item.values())}
    assert public == {"/health", "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"}


def test_members(server):
    schemas = server.get("/openapi.json").json()["components"]["schemas"]
    completion, chat = set(schemas["CompletionRequest"]["properties"]), set(schemas["ChatRequest"]["properties"])
    own = documented("POST /v1/completions")
    assert len(own) > 20 and own <= completion, own - completion
    in_chat = (own - {"prompt", "echo", "add_special_tokens"}) | documented("POST /v1/chat/completions")
    assert in_chat <= chat, in_chat - chat
    for title, name in (("POST /v1/score", "ScoreRequest"), ("POST /v1/embeddings", "EmbeddingRequest")):
        assert documented(title) <= set(schemas[name]["properties"]), title
    properties = schemas["CompletionRequest"]["properties"]
    assert properties["max_tokens"]["maximum"] == 2048 and schemas["TokenId"]["maximum"] == 4095
    assert properties["model"]["anyOf"][0]["enum"] == ["austen"] and "strided" in schemas["Attention"]["anyOf"][0]["enum"]


def test_replies(server):
    document = server.get("/openapi.json").json()
    message = [{"role": "user", "content": "Emma"}]
    bodies = {
        "/v1/completions": [dict(prompt=["a", "b"], max_tokens=3, n=2, logprobs=2, echo=True, return_token_ids=True), dict(prompt="a")],
        "/v1/chat/completions": [dict(messages=message, max_tokens=3, logprobs=True, top_logprobs=2), dict(messages=message, max_tokens=1)],
        "/v1/embeddings": [dict(input="a"), dict(input=["a", "b"], encoding_format="base64")],
        "/v1/score": [dict(input=["a b", "c d"]), dict(input=[5])],
        "/tokenize": [dict(prompt="a b", return_token_strs=True), dict(content="caf\u00e9", with_pieces=True), dict(inputs=["a", "b"])],
        "/detokenize": [dict(tokens=[65, 66])],
        "/v1/attention/captures": [dict(input="Emma was")],
    }
    for path, values in bodies.items():
        for value in values:
            reply = server.post(path, value)
            answers = document["paths"][path]["post"]["responses"]
            assert reply.status in (200, 201) and str(reply.status) in answers, (path, reply)
            check(document, answers[str(reply.status)]["content"]["application/json"]["schema"], reply.json(), path)
        error = server.post(path, {"model": 5})
        assert error.status == 400
        check(document, {"$ref": "#/components/schemas/Error"}, error.json(), path)
    for path in ("/v1/models", "/tokenizer_info", "/v1/attention/backends", "/v1/limits", "/v1/requests", "/health", "/health/live"):
        check(document, document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"], server.get(path).json(), path)


def test_head_and_queries(server):
    assert server.get("/openapi.json?x=1").status == 400 and server.request("HEAD", "/openapi.json").status == 200


with harness.Server("--chat-template", "plain") as shared:
    harness.main({n: (lambda f=f: f(shared)) for n, f in list(globals().items()) if n.startswith("test_")})
