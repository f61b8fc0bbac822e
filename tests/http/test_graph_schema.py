"""GET /v1/attention/schema against real answers of every graph route, by a small validator of the words it uses."""
import os
import shutil
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import harness
import tiny_model

TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
WORDS = {"type", "properties", "required", "additionalProperties", "items", "minItems", "maxItems", "enum", "const", "oneOf",
         "minimum", "maximum", "exclusiveMinimum"}


def is_type(value, name):
    if name in ("integer", "number"):
        return isinstance(value, int if name == "integer" else (int, float)) and not isinstance(value, bool)
    return isinstance(value, TYPES[name])


def fault(schema, value, where="answer"):
    """What is wrong with the value, or None."""
    assert set(schema) <= WORDS, (where, set(schema) - WORDS)
    kinds = schema.get("type")
    if kinds and not any(is_type(value, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds)):
        return "%s is no %s: %r" % (where, kinds, value)
    if "enum" in schema and value not in schema["enum"] or "const" in schema and value != schema["const"]:
        return "%s is %r" % (where, value)
    if "oneOf" in schema and sum(fault(one, value, where) is None for one in schema["oneOf"]) != 1:
        return "%s fits not just one: %r" % (where, value)
    if is_type(value, "number") and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        return "%s is out of range: %r" % (where, value)
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            return where + " has another length"
        for i, item in enumerate(value[:50]):
            found = fault(schema.get("items", {}), item, "%s[%d]" % (where, i))
            if found:
                return found
    if isinstance(value, dict):
        missing = [name for name in schema.get("required", ()) if name not in value]
        if missing:
            return "%s lacks %s" % (where, missing)
        for name, item in value.items():
            one = schema.get("properties", {}).get(name, schema.get("additionalProperties", {}))
            if one is False:
                return "%s has %s" % (where, name)
            found = fault(one, item, where + "." + name)
            if found:
                return found
    return None


def test_answers():
    folder = tempfile.mkdtemp(prefix="sparsed-schema-")
    try:
        with harness.Server(model=tiny_model.write(folder)) as server:
            schemas = server.get("/v1/attention/schema").json()["properties"]
            checked = set()

            def check(route, reply, status=200):
                assert reply.status == status, (route, reply)
                found = fault(schemas[route], reply.json())
                assert found is None, (route, found)
                checked.add(route)
                return reply.json()

            base, path = "GET /v1/attention/captures/{id}", "/v1/attention/captures"
            body = {"input": "the cat the dog", "labels": {"pos": ["A", "B"] * 6}, "gold": {"normalizer": "entmax15"}}
            count = server.post(path, {"input": body["input"]}).json()["n_query"]
            body["labels"]["pos"] = (body["labels"]["pos"] * count)[:count]
            one = check("POST " + path, server.post(path, body), 201)
            soft = server.post(path, dict(body, gold={"normalizer": "softmax", "mass": 0.9})).json()
            assert fault(schemas[base], soft) is None
            at = path + "/" + one["id"]
            check(base + "/heads", server.get(at + "/heads"))
            check(base, server.get(at))
            check(base + "/tokens", server.get(at + "/tokens"))
            edges = check(base + "/heads/{layer}/{head}/edges", server.get(at + "/heads/1/0/edges?limit=3"))
            assert edges["next"]
            check(base + "/heads/{layer}/{head}/rows/{row}", server.get(at + "/heads/1/0/rows/3"))
            check(base + "/heads/{layer}/{head}/cols/{col}", server.get(at + "/heads/1/0/cols/0"))
            check(base + "/overview?format=json", server.get(at + "/overview?format=json"))
            check(base + "/aggregate", server.get(at + "/aggregate?op=rollout"))
            check(base + "/labels", server.get(at + "/labels"))
            started = server.post(at + "/sweep", {"attention": "window", "grid": {"window": [1, 3]}})
            check("POST /v1/attention/captures/{id}/sweep", started, 202)
            harness.until(lambda: server.get(started.headers["location"]).json()["state"] != "running")
            check(base + "/sweeps/{job}", server.get(started.headers["location"]))
            check("GET /v1/attention/compare", server.get("/v1/attention/compare?a=%s&b=%s&layer=0&head=1" % (one["id"], soft["id"])))
            check("error", server.get(at + "/heads/9/0/edges"), 404)
            check("DELETE /v1/attention/captures/{id}", server.request("DELETE", at))
            clusters = {base + "/heads/{layer}/{head}/clusters", base + "/heads/{layer}/{head}/clusters/{cluster}"}
            assert set(schemas) - checked == clusters | {"202"}, set(schemas) - checked
            assert fault(schemas[base], {"id": 1}) and fault(schemas["error"], {"error": {"message": 1}})
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    harness.main(globals())
