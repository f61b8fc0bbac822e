/* Chats as text for the model: the families of templates there are, and which one a model's template is.
 *
 * A template is a Jinja program; none is run. Its text and the tokens it names tell the family, and the
 * family is written here: chatml   <|im_start|>ROLE\nTEXT<|im_end|>\n               Qwen, SmolLM2 and many
 * more llama2   <s>[INST] <<SYS>>\nSYSTEM\n<</SYS>>\n\nTEXT [/INST] ANSWER </s> llama3
 * <|start_header_id|>ROLE<|end_header_id|>\n\nTEXT<|eot_id|> zephyr   <|ROLE|>\nTEXT</s>\n also TinyLlama
 *   phi3     <|ROLE|>\nTEXT<|end|>\n
 *   mistral  <s>[INST] TEXT [/INST]ANSWER</s>, with the spaces its template has
 *   plain    ROLE: TEXT\n                                     for models without a template
 * Begin-of-text is written where the template names it; a system prompt that the template itself holds is
 * used where a chat brings none. A template that is none of these is refused, never guessed. Special tokens
 * are recognised in what the template writes, not in what people wrote. Tests:
 * tests/unit/models/test_chat_template.c, tests/http/test_chat.py */
#ifndef SPARSED_MODELS_CHAT_TEMPLATE_H
#define SPARSED_MODELS_CHAT_TEMPLATE_H

#include "models/tokenizer.h"

typedef enum sp_chat_family {
    SP_CHAT_NONE, /* no template, or none that is known */
    SP_CHAT_CHATML,
    SP_CHAT_LLAMA2,
    SP_CHAT_LLAMA3,
    SP_CHAT_ZEPHYR,
    SP_CHAT_PHI3,
    SP_CHAT_MISTRAL,
    SP_CHAT_PLAIN,
} sp_chat_family;

typedef struct sp_chat {
    sp_chat_family family;
    const sp_tokenizer *tokenizer;
    bool has_template; /* the model brings one, known or not */
    bool adds_bos;
    bool spaced_close, spaced_answer, system_last; /* mistral: as its versions differ */
    char system[1024];                             /* default system prompt; empty: none */
    char preamble[256];                            /* llama3: before every system prompt */
    int32_t end;                                   /* token that ends a turn; -1: the end of text */
    const char *stop;                              /* text that ends a turn; NULL: none */
} sp_chat;

typedef enum sp_chat_role { SP_CHAT_SYSTEM, SP_CHAT_USER, SP_CHAT_ASSISTANT } sp_chat_role;
typedef struct sp_chat_message {
    sp_chat_role role;
    const char *text; /* (size) */
    size_t size;
} sp_chat_message;

/* template_text: the model's, or NULL. name: a family's name that overrides it, or NULL. An unknown template
 * is no error: family is SP_CHAT_NONE then. SP_USAGE: no family has this name. */
sp_status sp_chat_open(const char *template_text, const char *name, const sp_tokenizer *tokenizer,
                       sp_chat *out, sp_error *error) SP_MUST_CHECK;
const char *sp_chat_name(sp_chat_family family); /* "chatml"; "none" */
/* The chat with the beginning of an answer, as ids (*out is overwritten). SP_INVALID names messages: an order
 * of roles that the family does not have, a text that cannot be encoded, or no known template. */
sp_status sp_chat_encode(const sp_chat *chat, const sp_chat_message *messages, size_t n, sp_tokens *out,
                         sp_error *error) SP_MUST_CHECK;
/* The same as text; *spans (n) are the people's parts of it. */
sp_status sp_chat_render(const sp_chat *chat, const sp_chat_message *messages, size_t n, sp_buffer *text,
                         sp_span *spans, sp_error *error) SP_MUST_CHECK;

#endif
