/* The option table: every option of every command, with its type, range, default and help text. Parsing is in
 * options.c, help and /v1/limits are made from it in options_help.c, server/README.md is compared with it by
 * tests/lint/test_docs.py. Tests: tests/unit/server/test_options.c */
#include "server/options.h"

#define AT(field) offsetof(sp_options, field)

#define SERVE SP_FOR_SERVE
#define GENERATE SP_FOR_GENERATE
#define ATTEND SP_FOR_ATTEND
#define BENCH SP_FOR_BENCH
#define SCORE SP_FOR_SCORE
#define TOKENIZE SP_FOR_TOKENIZE
#define INSPECT SP_FOR_INSPECT
#define GRAPH SP_FOR_GRAPH
#define IMPORT SP_FOR_IMPORT_FIT
#define FIT SP_FOR_FIT
#define SWEEP SP_FOR_SWEEP
#define ENGINE (SERVE | GENERATE | SCORE | GRAPH | SWEEP)
#define LIMIT (SP_FOR_SERVE | SP_IS_LIMIT)

#define KIB 1024.0
#define MIB (1024.0 * KIB)
#define GIB (1024.0 * MIB)
#define TIB (1024.0 * GIB)
#define DAY 86400.0

const sp_option sp_option_table[] = {
    /* --- the model and how it runs --- */
    {"model", SP_OPTION_TEXT, AT(model), ENGINE | BENCH | TOKENIZE | INSPECT | IMPORT | FIT, 0, 0, NULL,
     "MODEL",
     "Folder with config.json, tokenizer.json and *.safetensors, a .gguf file, or the name of a model in the "
     "cache folder "
     "(~/.cache/sparsed/models, where deploy/fetch-model.sh puts them). Without it: models/austen below the "
     "current folder, else the installed share/sparsed/models/austen; where neither exists the option is "
     "required."},
    {"adapter", SP_OPTION_ADAPTERS, AT(adapters), ENGINE | FIT, 0, 0, NULL, "NAME=DIR",
     "LoRA adapter in PEFT's layout (adapter_config.json, adapter_model.safetensors) beside the model; may "
     "be "
     "given several times. Requests ask for it as MODEL:NAME; generate and score use the last one given. In "
     "the config file: an array."},
    {"threads", SP_OPTION_INT, AT(threads), ENGINE | ATTEND | BENCH | FIT, 1, 1024, NULL, "N",
     "Threads that compute. Without it: every CPU this process may use. Results do not depend on it."},
    {"ctx", SP_OPTION_INT, AT(context), ENGINE | BENCH, 1, 16777216, NULL, "N",
     "Context in tokens: prompt and answer together. Without it: the model's own, or what the KV memory "
     "holds if that is less."},
    {"attention", SP_OPTION_TEXT, AT(attention), SERVE | GENERATE | SCORE | BENCH | GRAPH, 0, 0, NULL, "A",
     "Attention of requests that name none: a backend's name, or the JSON object of a request, such as "
     "'{\"backend\":\"strided\",\"params\":{\"stride\":64}}'. Without it: the pattern the model was "
     "trained with, else dense."},
    {"fit", SP_OPTION_TEXT, AT(fit), ENGINE | ATTEND, 0, 0, NULL, "FILE",
     "Fit file for the backends sparsefinder and routing. Without it: sparsefinder.safetensors in the "
     "model's "
     "folder, beside a GGUF file NAME.sparsefinder.safetensors or sparsefinder.safetensors; attend: the fit "
     "tensors of the input. An adapter's own fit serves its requests."},
    {"chat-template", SP_OPTION_TEXT, AT(chat_template), SERVE | GENERATE, 0, 0, NULL, "FAMILY",
     "How chats become text: chatml, llama2, llama3, zephyr, phi3, mistral or plain. Without it: the family "
     "of "
     "the model's own template; where that is unknown or absent, chats are refused."},
    {"normalizer", SP_OPTION_TEXT, AT(normalizer), ENGINE | BENCH | FIT, 0, 0, "model", "A",
     "What turns scores into weights: model (as it was trained), softmax, entmax15, sparsemax or "
     "'{\"alpha\":1.33}' with 1 < alpha <= 2. Anything but model overrides the model's and is noted in "
     "every report."},
    {"kv", SP_OPTION_TEXT, AT(kv), ENGINE | BENCH | INSPECT | FIT, 0, 0, "bf16", "bf16|f32",
     "Type of cached keys and values. f32 also means float32 arithmetic throughout: slower, for reference "
     "figures."},
    {"weights", SP_OPTION_TEXT, AT(weights), ENGINE | BENCH | INSPECT | FIT, 0, 0, "stored",
     "stored|bf16|f32",
     "Type of weight matrices in memory. stored keeps what the file has: quantized weights stay quantized "
     "and meet activations rounded to 8 bits. bf16 and f32 convert at load."},
    {"gemm", SP_OPTION_TEXT, AT(gemm), ENGINE | BENCH | FIT, 0, 0, "own", "own|openblas",
     "Who computes linear layers. With openblas the bits of an answer depend on what else is in the batch; "
     "reports say \"batch_invariant\": false."},
    {"mmap", SP_OPTION_FLAG, AT(mmap), LIMIT | GENERATE | SCORE | GRAPH | SWEEP, 0, 0, "false", NULL,
     "Map weights instead of reading them. Starts faster; if the file is cut short while in use the "
     "process dies by SIGBUS."},
    {"allow-nonfinite", SP_OPTION_FLAG, AT(allow_nonfinite),
     LIMIT | GENERATE | SCORE | GRAPH | SWEEP | INSPECT, 0, 0, "false", NULL,
     "Load tensors that hold NaN or infinity instead of refusing them."},
    {"kv-bytes", SP_OPTION_BYTES, AT(kv_bytes), LIMIT | GENERATE | SCORE | GRAPH | SWEEP, MIB, 16 * TIB, NULL,
     "BYTES",
     "Memory for cached keys and values. Without it: half of what is free at start. Never more is taken than "
     "--max-sequences whole contexts need."},
    {"attn-scratch", SP_OPTION_BYTES, AT(attn_scratch), LIMIT | GENERATE | SCORE | GRAPH | SWEEP | ATTEND,
     MIB, 64 * GIB, "64M", "BYTES", "Working memory of one attention call."},

    /* --- where it listens --- */
    {"host", SP_OPTION_TEXT, AT(host), SERVE | SP_FOR_HEALTH, 0, 0, "127.0.0.1", "ADDRESS",
     "Address to listen on, or of the server that is asked. Anything beyond loopback needs --api-key-file or "
     "--insecure. There is no TLS."},
    {"port", SP_OPTION_INT, AT(port), SERVE | SP_FOR_HEALTH, 0, 65535, "8080", "N",
     "TCP port; 0 picks a free one."},
    {"allowed-host", SP_OPTION_TEXT, AT(allowed_host), LIMIT, 0, 0, NULL, "LIST",
     "Comma-separated names that the Host header may carry. Without it: any where there are keys, else "
     "localhost, 127.0.0.1, [::1] and --host."},
    {"api-key-file", SP_OPTION_TEXT, AT(api_key_file), LIMIT, 0, 0, NULL, "FILE",
     "Keys that clients must show, as Authorization: Bearer KEY or X-Api-Key: KEY. One a line, 8 to 256 "
     "bytes; "
     "empty lines and # lines are skipped. SIGHUP reads it again."},
    {"cors-origin", SP_OPTION_TEXT, AT(cors_origin), LIMIT, 0, 0, NULL, "LIST",
     "Comma-separated origins whose pages may call this server, such as https://example.org, or *. Without "
     "it: "
     "none."},
    {"insecure", SP_OPTION_FLAG, AT(insecure), LIMIT, 0, 0, "false", NULL,
     "Listen beyond loopback without keys, although anybody who reaches the port may use the model."},
    {"public-metrics", SP_OPTION_FLAG, AT(public_metrics), LIMIT, 0, 0, "false", NULL,
     "Serve /metrics without a key."},
    {"share-prefixes", SP_OPTION_FLAG, AT(share_prefixes), LIMIT, 0, 0, "false", NULL,
     "Let a prompt reuse what was computed for another API key's prompt that begins alike. Then a fast "
     "answer "
     "tells that somebody asked such a thing before."},
    {"poison", SP_OPTION_FLAG, AT(poison), SERVE, 0, 0, "false", NULL,
     "Fill pages of keys and values with NaN when they become free, so that reading what nobody owns shows: "
     "for tests."},
    {"log-format", SP_OPTION_TEXT, AT(log_format), SERVE, 0, 0, "text", "text|json",
     "Lines of the log on standard error, one of them a request: text, or a JSON object each."},
    {"config", SP_OPTION_TEXT, AT(config), SERVE, 0, 0, NULL, "FILE",
     "JSON object with these options, dashes as underscores: {\"max_queue\": 16}. Arguments win over the "
     "file."},

    /* --- requests --- */
    {"max-sequences", SP_OPTION_INT, AT(max_sequences), LIMIT, 1, 1024, "16", "N",
     "Requests that are computed at once."},
    {"max-queue", SP_OPTION_INT, AT(max_queue), LIMIT, 1, 65536, "64", "N",
     "Requests that may wait; one more is answered 429."},
    {"queue-timeout", SP_OPTION_NUMBER, AT(queue_timeout), LIMIT, 0.01, DAY, "60", "SECONDS",
     "How long a request may wait before it is answered 503."},
    {"request-timeout", SP_OPTION_NUMBER, AT(request_timeout), LIMIT, 0.01, DAY, "600", "SECONDS",
     "How long a request may take in all."},
    {"max-output-tokens", SP_OPTION_INT, AT(max_output_tokens), LIMIT, 1, 16777216, "4096", "N",
     "Most tokens of an answer whose request names no max_tokens and whose route has no default of its own."},
    {"max-body-bytes", SP_OPTION_BYTES, AT(max_body_bytes), LIMIT, KIB, GIB, "1M", "BYTES",
     "Largest JSON body; a larger one is answered 413."},
    {"max-tensor-bytes", SP_OPTION_BYTES, AT(max_tensor_bytes), LIMIT, KIB, 16 * GIB, "64M", "BYTES",
     "Largest body and largest answer of /v1/attention/apply."},
    {"step-ms", SP_OPTION_INT, AT(step_ms), LIMIT | BENCH, 1, 10000, "20", "MS",
     "How long one step of the engine should take: bounds how long others wait for a long prompt. A prompt "
     "that is alone takes four times that."},

    /* --- attention graphs --- */
    {"capture-bytes", SP_OPTION_BYTES, AT(capture_bytes), LIMIT, MIB, 16 * TIB, "512M", "BYTES",
     "Memory for captures and the heads made from them, the KV pages they hold included. The least recently "
     "used goes first."},
    {"capture-max-bytes", SP_OPTION_BYTES, AT(capture_max_bytes), LIMIT, KIB, 16 * TIB, "256M", "BYTES",
     "Largest capture, without its heads; a larger one is answered 413."},
    {"capture-expiry", SP_OPTION_NUMBER, AT(capture_expiry), LIMIT, 0.05, 30 * DAY, "600", "SECONDS",
     "How long a capture stays without being asked for anything."},
    {"graph-jobs", SP_OPTION_INT, AT(graph_jobs), LIMIT, 1, 64, "2", "N",
     "Graph queries that compute at once; what needs no computing is answered beside them."},
    {"graph-json-edges", SP_OPTION_INT, AT(graph_json_edges), LIMIT, 1, 10000000, "100000", "N",
     "Edges of one answer in JSON; what is more comes in pages."},
    {"graph-edges", SP_OPTION_INT, AT(graph_edges), LIMIT, 1, 100000000, "1000000", "N",
     "Edges of one binary answer; what is more comes in pages."},
    {"graph-dense-values", SP_OPTION_INT, AT(graph_dense_values), LIMIT, 1, 1000000000, "4000000", "N",
     "Values of one answer in a dense format; a larger one is answered 413."},

    /* --- connections --- */
    {"max-connections", SP_OPTION_INT, AT(max_connections), LIMIT, 1, 65536, "1024", "N",
     "Open connections; beyond it the oldest idle one is closed, else the new one is answered 503."},
    {"max-connections-per-ip", SP_OPTION_INT, AT(max_connections_per_ip), LIMIT, 1, 65536, "256", "N",
     "The same for one client: an IPv4 address, or an IPv6 network of 64 bits."},
    {"header-timeout", SP_OPTION_NUMBER, AT(header_timeout), LIMIT, 0.05, DAY, "10", "SECONDS",
     "Time to send the whole header of a request, however steadily it comes; then 408."},
    {"body-timeout", SP_OPTION_NUMBER, AT(body_timeout), LIMIT, 0.05, DAY, "30", "SECONDS",
     "Time to send the whole body, the same."},
    {"idle-timeout", SP_OPTION_NUMBER, AT(idle_timeout), LIMIT, 0.05, DAY, "60", "SECONDS",
     "How long a connection may stay open between requests."},
    {"write-timeout", SP_OPTION_NUMBER, AT(write_timeout), LIMIT, 0.05, DAY, "30", "SECONDS",
     "How long a client may take nothing of its answer, or be silent while it waits for it, before it is cut "
     "off."},
    {"half-close", SP_OPTION_TEXT, AT(half_close), LIMIT, 0, 0, "abort", "abort|keep",
     "A client that closes its sending side has left (abort), or still waits for its answer (keep)."},

    /* --- stopping --- */
    {"drain-delay", SP_OPTION_NUMBER, AT(drain_delay), LIMIT, 0, DAY, "5", "SECONDS",
     "After SIGTERM or SIGINT: how long new connections are still taken while /health says 503. Skipped "
     "when nothing runs."},
    {"drain-timeout", SP_OPTION_NUMBER, AT(drain_timeout), LIMIT, 0, DAY, "30", "SECONDS",
     "Then: how long running and waiting requests may take to finish. A second signal cuts them at once."},

    /* --- generate --- */
    {"prompt", SP_OPTION_TEXT, AT(prompt), GENERATE, 0, 0, NULL, "TEXT",
     "Text to continue; - reads standard input."},
    {"max-tokens", SP_OPTION_INT, AT(max_tokens), GENERATE, -1, 16777216, "-1", "N",
     "Tokens to write at most; -1: 128, in a chat the rest of the context, at most 4096."},
    {"temperature", SP_OPTION_NUMBER, AT(temperature), GENERATE, 0, 100, "1", "X",
     "0 takes the most likely token every time; larger is more varied."},
    {"top-p", SP_OPTION_NUMBER, AT(top_p), GENERATE, 1e-9, 1, "1", "P",
     "Draw only from the most likely tokens that hold this share of the probability."},
    {"top-k", SP_OPTION_INT, AT(top_k), GENERATE, -1, 2147483647, "0", "K",
     "Draw only from the K most likely tokens; 0 and -1: from all."},
    {"min-p", SP_OPTION_NUMBER, AT(min_p), GENERATE, 0, 1, "0", "P",
     "Draw only from tokens at least P times as likely as the best; 0: from all."},
    {"presence-penalty", SP_OPTION_NUMBER, AT(presence_penalty), GENERATE, -2, 2, "0", "X",
     "Taken from the logit of tokens that the answer holds."},
    {"frequency-penalty", SP_OPTION_NUMBER, AT(frequency_penalty), GENERATE, -2, 2, "0", "X",
     "The same, as often as the answer holds them."},
    {"repetition-penalty", SP_OPTION_NUMBER, AT(repetition_penalty), GENERATE, 1e-9, 100, "1", "X",
     "Divides the logit of tokens that prompt or answer hold; 1: off."},
    {"logit-bias", SP_OPTION_TEXT, AT(logit_bias), GENERATE, 0, 0, NULL, "LIST",
     "ID=X between commas: X, -100 to 100, is added to a token's logit."},
    {"stop", SP_OPTION_TEXT, AT(stop), GENERATE, 0, 0, NULL, "TEXT",
     "Text that ends the answer and is no part of it."},
    {"stop-token-ids", SP_OPTION_TEXT, AT(stop_token_ids), GENERATE, 0, 0, NULL, "LIST",
     "Ids between commas that end the answer."},
    {"min-tokens", SP_OPTION_INT, AT(min_tokens), GENERATE, 0, 16777216, "0", "N",
     "Nothing ends the answer before so many tokens; at most --max-tokens."},
    {"ignore-eos", SP_OPTION_FLAG, AT(ignore_eos), GENERATE, 0, 0, "false", NULL,
     "Write on past the end of text."},
    {"chat", SP_OPTION_FLAG, AT(chat), GENERATE, 0, 0, "false", NULL,
     "Chat: --prompt is the one message, without it messages are lines of standard input, with history. "
     "Ctrl-C stops an answer, Ctrl-D ends."},
    {"system", SP_OPTION_TEXT, AT(system), GENERATE, 0, 0, NULL, "TEXT",
     "System prompt of --chat. Without it: the default of the model's template, if it has one."},
    {"seed", SP_OPTION_INT, AT(seed), GENERATE | FIT, -9223372036854775808.0, 9223372036854775807.0, "0", "N",
     "The same seed gives the same text."},

    /* --- score --- */
    {"text", SP_OPTION_TEXT, AT(text), SCORE | SWEEP | GRAPH, 0, 0, NULL, "FILE",
     "Text to read, UTF-8; with score and graph - reads standard input. Required."},
    {"length", SP_OPTION_INT, AT(length), SCORE | SWEEP, 1, 16777216, NULL, "T",
     "Windows of T tokens, step T, each predicting its next T tokens. Without it: the whole context."},
    {"min-context", SP_OPTION_INT, AT(min_context), SCORE, 0, 16777216, "0", "N",
     "Count only tokens with at least N tokens before them in their window."},

    /* --- fit --- */
    {"text", SP_OPTION_FILES, AT(texts), FIT, 0, 0, NULL, "FILE...",
     "Texts to learn from, UTF-8: one or more. The last tenth of their windows is held out. Required."},
    {"length", SP_OPTION_INT, AT(length), FIT, 64, 1048576, NULL, "T",
     "Windows of T tokens: as long as what will be served, because maps fitted on shorter windows keep too "
     "many "
     "keys. Without it: the model's context, at most 4096."},
    {"tokens", SP_OPTION_INT, AT(tokens), FIT, 128, 1099511627776.0, NULL, "N",
     "Use about N tokens, in windows evenly over the texts. Without it: all."},
    {"rank", SP_OPTION_INT, AT(rank), FIT, 1, 64, NULL, "R",
     "Numbers of a projected vector. Without it: 8, or 16 where query heads share keys."},
    {"loss", SP_OPTION_TEXT, AT(loss), FIT, 0, 0, "balanced", "balanced|hinge",
     "balanced: the sets dot, distance and routed clusters. hinge: the loss of the paper, with distances "
     "alone."},
    {"steps", SP_OPTION_INT, AT(steps), FIT, 1, 1000000, "400", "N", "Steps of training of a set."},
    {"rope", SP_OPTION_TEXT, AT(rope), FIT, 0, 0, "post", "post|pre",
     "Queries and keys as they are after the rotary embedding, or before it."},
    {"maps", SP_OPTION_TEXT, AT(maps), FIT, 0, 0, "separate", "separate|shared",
     "A map of its own for queries and for keys, or one for both (then one map of keys a query head)."},
    {"k-maps", SP_OPTION_TEXT, AT(k_maps), FIT, 0, 0, "kv", "kv|head",
     "One map of keys a KV head, or one a query head."},
    {"clusters", SP_OPTION_TEXT, AT(clusters), FIT, 0, 0, "16,32", "LIST",
     "Numbers of routed clusters, between commas: each gets maps of its own; none for none."},
    {"lambda", SP_OPTION_NUMBER, AT(lambda), FIT, 0.001, 1000, "10", "X",
     "What an edge that is none costs in routed clusters: more makes them sparser."},
    {"kmeans", SP_OPTION_TEXT, AT(kmeans), FIT, 0, 0, "16", "LIST",
     "Numbers of plain k-means clusters on the distance maps; none for none."},
    {"runs", SP_OPTION_INT, AT(runs), FIT, 1, 8, "1", "N",
     "Runs of plain k-means: the first starts by k-means++, the others at random points."},
    {"bins", SP_OPTION_TEXT, AT(bins), FIT, 0, 0, "16", "LIST",
     "Numbers of frozen bins on the distance maps; none for none."},
    {"blocks", SP_OPTION_TEXT, AT(blocks), FIT, 0, 0, "none", "LIST",
     "Block lengths to fit, such as 16,64; none for none."},
    {"gold-mass", SP_OPTION_NUMBER, AT(gold_mass), FIT, 0.01, 0.999, "0.95", "P",
     "With softmax: the graph to predict is the fewest keys that hold this share of a row."},
    {"sample-bytes", SP_OPTION_BYTES, AT(sample_bytes), FIT, MIB, 16 * TIB, "3G", "BYTES",
     "Memory for queries and keys. Where all layers need more, the text is read once for every group of "
     "layers."},
    {"measure", SP_OPTION_TEXT, AT(measured), FIT, 0, 0, NULL, "FIT",
     "Train nothing: measure this fit file on all windows of the texts."},

    /* --- tokenize --- */
    {"plain", SP_OPTION_FLAG, AT(plain), TOKENIZE, 0, 0, "false", NULL,
     "Special tokens written in a text are ordinary characters, as in the text of users; with --decode they "
     "are left out."},
    {"special", SP_OPTION_FLAG, AT(special), TOKENIZE, 0, 0, "false", NULL,
     "Add the tokens that the model wants around a text, such as a begin of sequence."},
    {"decode", SP_OPTION_FLAG, AT(decode), TOKENIZE, 0, 0, "false", NULL,
     "The way back: an array of arrays of ids in, an array of texts out."},

    /* --- attend --- */
    {"in", SP_OPTION_TEXT, AT(in), ATTEND, 0, 0, NULL, "FILE", "safetensors file with q, k, v; required."},
    {"out", SP_OPTION_TEXT, AT(out), ATTEND | IMPORT | SWEEP | FIT | GRAPH, 0, 0, NULL, "FILE",
     "File to write, safetensors but for graph; with attend and graph - writes to standard output; with "
     "sweep the "
     "folder. Required."},
    {"device", SP_OPTION_TEXT, AT(device), ATTEND, 0, 0, "cpu", "cpu", "Where to compute."},
    {"metrics", SP_OPTION_FLAG, AT(metrics), ATTEND, 0, 0, "false", NULL,
     "Compare the edges with the gold graph: those that dense attention with the same entmax gives weight."},

    /* --- sweep --- */
    {"windows", SP_OPTION_INT, AT(windows), SWEEP, 0, 1048576, "4", "N",
     "Measure the first N windows of the text; 0: all of it."},
    {"backends", SP_OPTION_TEXT, AT(backends), SWEEP, 0, 0, NULL, "LIST",
     "Backends between commas. Without it: every one there is."},
    {"grid", SP_OPTION_TEXT, AT(grid), SWEEP, 0, 0, NULL, "LIST",
     "Curves between semicolons, each with its own values or the built-in ones: 'window=1,3,9;dot-keep'. "
     "Without it: all of the backends."},

    /* --- graph --- */
    {"format", SP_OPTION_TEXT, AT(format), GRAPH, 0, 0, NULL, "F",
     "json, csv, npz, safetensors, graphml, dot, svg, png, html, bertviz, circuitsvis or exbert. Required."},
    {"graph", SP_OPTION_TEXT, AT(graph), GRAPH, 0, 0, "gold", "gold|pred|both|missed|extra|after",
     "Which edges: of dense attention, predicted by the backend, of both, missed by it, only in it, or left "
     "after normalizing over it."},
    {"layer", SP_OPTION_INT, AT(layer), GRAPH, 0, 65535, NULL, "N",
     "Layer, from 0. Without layer and head: all heads at a glance (svg, png, and the dense formats bertviz, "
     "circuitsvis, exbert)."},
    {"head", SP_OPTION_INT, AT(head), GRAPH, 0, 65535, NULL, "N", "Query head, from 0; needs --layer."},
    {"view", SP_OPTION_TEXT, AT(view), GRAPH, 0, 0, NULL, "matrix|panels|lines|overview",
     "Of svg and png. panels: gold, predicted and after side by side. Without it: the matrix of one head, "
     "the "
     "overview of all."},
    {"scale", SP_OPTION_TEXT, AT(scale), GRAPH, 0, 0, "sqrt", "linear|sqrt|log",
     "From weights to colours in pictures."},
    {"colors", SP_OPTION_TEXT, AT(colors), GRAPH, 0, 0, "cividis", "cividis|viridis|grey",
     "Colours of weights in pictures."},
    {"theme", SP_OPTION_TEXT, AT(theme), GRAPH, 0, 0, "light", "light|dark", "Page of pictures."},

    {"retime", SP_OPTION_FLAG, AT(retime), SWEEP, 0, 0, "false", NULL,
     "Measure only the seconds again, of the points that are there: on a machine that has become quiet."},

    /* --- import-fit --- */
    {"projections", SP_OPTION_TEXT, AT(projections), IMPORT, 0, 0, NULL, "FILE",
     "PyTorch save with a list over layers of {'q': {w, b}, 'k': {w, b}}. Required."},
    {"centroids", SP_OPTION_TEXT, AT(centroids), IMPORT, 0, 0, NULL, "FILE",
     "PyTorch save with a list over layers of centroids, heads x runs x clusters x rank, or x block * rank "
     "for blocks."},
    {"layers", SP_OPTION_INT, AT(layers), IMPORT, 0, 1024, "0", "N",
     "Refuse projections of another number of layers; 0: any."},
    {"heads", SP_OPTION_INT, AT(heads), IMPORT, 0, 1024, "0", "N",
     "Refuse projections of another number of query heads; 0: any."},
    {"alpha", SP_OPTION_NUMBER, AT(alpha), IMPORT, 1.000001, 2, "1.5", "A",
     "The alpha of the entmax attention that the projections were trained on."},

    {"json", SP_OPTION_FLAG, AT(json), GENERATE | SCORE | INSPECT | BENCH | FIT, 0, 0, "false", NULL,
     "Write one JSON object to standard output instead of text."},
};
const size_t sp_option_count = sizeof sp_option_table / sizeof sp_option_table[0];
