"""Requests whose answers must be the same bytes however they are asked: drawn at random, and what of a reply counts.

Prompts begin with one of a few long texts, so that prefixes are there to be reused; they differ in what follows, in
attention, normalizer, sampling and in what is wanted of them.
"""
import json

OPTIONS = ("--chat-template", "plain", "--queue-timeout", "3600", "--request-timeout", "3600")
BEGINNINGS = [
    "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want of a "
    "wife. However little known the feelings or views of such a man may be on his first entering a neighbourhood, this "
    "truth is so well fixed in the minds of the surrounding families, that he is considered the rightful property of "
    "some one or other of their daughters. My dear, said his lady to him one day, have you heard that the house is let "
    "at last? He replied that he had not. But it is, returned she; for she has just been here, and told me all. ",
    "She was the youngest of the two daughters of a most affectionate, indulgent father; and had, in consequence of her "
    "sister's marriage, been mistress of his house from a very early period. Her mother had died too long ago for her to "
    "have more than an indistinct remembrance of her caresses; and her place had been supplied by an excellent woman as "
    "governess, who had fallen little short of a mother in affection. ",
    "",
]
ATTENTIONS = [
    "dense", "dense", "dense",
    {"backend": "dense", "normalizer": "softmax"},
    {"backend": "dense", "normalizer": "sparsemax"},
    {"backend": "window", "params": {"window": 33}},
    {"backend": "strided", "params": {"stride": 16}},
    {"backend": "fixed", "params": {"stride": 32, "summary": 8}},
    {"backend": "longformer", "params": {"window": 17}},
    {"backend": "sparsefinder"},
    {"backend": "sparsefinder", "params": {"grouping": "distance", "keep": 16}},
    {"backend": "sparsefinder", "params": {"grouping": "cluster"}},
]  # fmt: skip
WORDS = "the of to and her was not had with she for have my been could would every such felt heart".split()


def draw_request(draw, word=None):
    """-> (path, fields) for a server with OPTIONS. word: stands in the prompt; attentions are those that the bundled
    model and its fit have."""
    tail = " ".join(draw.choice(WORDS) for _ in range(draw.choice([1, 3, 9, 30])))
    prompt = draw.choice(BEGINNINGS) + (word + " said " + word + ". " if word else "") + tail
    fields = {"attention": draw.choice(ATTENTIONS), "max_tokens": draw.choice([1, 4, 12, 24]),
              "seed": draw.randrange(1 << 31), "temperature": draw.choice([0, 0.7, 1.0]), "ignore_eos": True}  # fmt: skip
    kind = draw.randrange(10)
    if kind == 0:
        fields = {"attention": fields["attention"], "input": prompt}
        return "/v1/score", fields
    if kind == 1:
        fields.update(messages=[{"role": "user", "content": prompt}], logprobs=True, top_logprobs=3)
        return "/v1/chat/completions", fields
    fields.update(prompt=prompt, logprobs=draw.choice([None, 5]), stream=draw.random() < 0.4)
    if kind == 2:
        fields.update(echo=True)
    if kind == 3:
        fields.update(n=2)
    return "/v1/completions", fields


def essence(call):
    """Of a swarm.Call's reply what must not differ: all but names, times, and how much was computed anew."""
    if call.status() != 200:
        return "%d %r" % (call.status(), call.body()[:300])
    if not call.stream:
        reply = json.loads(call.body())
        for name in ("id", "created", "timings", "attention_report", "seconds"):
            reply.pop(name, None)
        for choice in reply.get("choices", []):
            choice.pop("attention_report", None)
        (reply.get("usage") or {}).pop("prompt_tokens_details", None)
        return json.dumps(reply, sort_keys=True)
    choices = {}
    for line in call.body().split(b"\n"):
        if line.startswith(b"data: {"):
            for choice in json.loads(line[6:])["choices"]:
                one = choices.setdefault(choice["index"], ["", [], None])
                one[0] += choice["text"]
                one[1].append(choice["logprobs"])
                one[2] = choice["finish_reason"] or one[2]
    return json.dumps(sorted(choices.items()))


def cached_tokens(call):
    if call.status() != 200 or call.stream:
        return 0
    usage = json.loads(call.body()).get("usage") or {}
    return (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
