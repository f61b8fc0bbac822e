"""The memory ceiling printed at start is kept by what replies hold: large ones that nobody reads, many choices with many
logprobs; what does not fit is refused with 503, and what clients leave behind is free again."""
import json
import os
import re
import sys

sys.path.insert(0, os.path.join(sys.argv[1], "tests", "support"))
import harness


def resident(server):
    with open("/proc/%d/status" % server.process.pid) as file:
        return 1024 * int(re.search(r"VmHWM:\s+(\d+)", file.read()).group(1))


def send(server, path, value):
    body = json.dumps(value).encode()
    link = server.connect(60.0)
    link.sendall(b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
                 % (path.encode(), len(body)) + body)  # fmt: skip
    return link


def status_of(link):
    return int(harness.read_some(link, 20, 240).split(b" ")[1])


def test_large_replies_nobody_reads():
    large = {"inputs": ["a b " * 60000] * 4}
    with harness.Server("--kv-bytes", "64M", "--write-timeout", 3600) as server:
        ceiling = server.get("/v1/limits").json()["memory_ceiling_bytes"]
        alone = server.post("/tokenize", large)
        assert alone.status == 200 and len(alone.body) > 20 << 20, len(alone.body)
        links, statuses = [], []
        for _ in range(12):
            links.append(send(server, "/tokenize", large))
            statuses.append(status_of(links[-1]))
        held = statuses.count(200)
        assert 2 <= held < 12 and set(statuses) == {200, 503}, statuses
        refused = server.post("/tokenize", large)
        assert refused.status == 503 and int(refused.headers["retry-after"]) >= 1 and "memory" in refused.error()["message"]
        for _ in range(3):
            assert server.complete(prompt="a", max_tokens=20, n=3, logprobs=2).status == 200, "small ones go on"
        assert resident(server) < ceiling, (resident(server), ceiling)
        for link in links:
            link.close()
        harness.until(lambda: server.post("/tokenize", large).status == 200, 120)  # closed connections hold no replies


def test_many_choices_with_logprobs():
    with harness.Server("--kv-bytes", "64M", "--chat-template", "plain") as server:
        ceiling = server.get("/v1/limits").json()["memory_ceiling_bytes"]
        prompt = [5 + i % 4000 for i in range(700)]
        fields = dict(prompt=[prompt] * 4, n=2, max_tokens=20, logprobs=20, echo=True, temperature=0, ignore_eos=True)
        value = server.complete(**fields).json()
        assert len(value["choices"]) == 8 and len({json.dumps(c["logprobs"]) for c in value["choices"]}) == 1
        rows = value["choices"][7]["logprobs"]
        assert len(rows["tokens"]) == 720 and all(len(top) >= 20 for top in rows["top_logprobs"][1:])
        assert all(c["attention_report"]["backend"] == "dense" for c in value["choices"])
        # the same as a stream: one frame holds the whole prompt's
        data = harness.frames(server.complete(stream=True, **dict(fields, n=1, prompt=prompt)).body)
        assert json.loads(data[0])["choices"][0]["logprobs"]["token_logprobs"][:700] == rows["token_logprobs"][:700]
        assert data[-1] == "[DONE]"
        links = [send(server, "/v1/completions", dict(fields, stream=i % 2 == 0)) for i in range(6)]
        for link in links:
            assert status_of(link) == 200
        assert resident(server) < ceiling, (resident(server), ceiling)
        for link in links:
            link.close()
        server.until_idle()
        again = server.complete(**fields).json()["choices"]
        assert [(c["text"], c["logprobs"]) for c in again] == [(c["text"], c["logprobs"]) for c in value["choices"]]


def test_requests_raise_the_ceiling():
    def ceiling(*options):
        with harness.Server("--kv-bytes", "16M", *options) as server:
            return server.get("/v1/limits").json()["memory_ceiling_bytes"]

    base = ceiling()
    assert ceiling("--max-queue", "640") > base and ceiling("--max-sequences", "64") > base
    assert ceiling("--max-connections", "4096") > base and ceiling("--max-body-bytes", "4M") > base


harness.main(globals())
