/* See import_pickle.h. Opcodes: Lib/pickletools.py of CPython. The names of torch are in import_torch.c. */
#include "engine/sparsefinder/import_pickle.h"
#include "engine/sparsefinder/import_torch.h"

#include <string.h>

#define STACK_MAX 8192u
#define MARKS_MAX 256u
#define MEMO_MAX 65536u

typedef struct machine {
    const char *file;
    const uint8_t *begin, *at, *end;
    const uint8_t *opcode; /* of what runs, for messages */
    sp_arena *arena;
    sp_value **stack; /* (STACK_MAX) */
    sp_value **memo;  /* (MEMO_MAX) */
    size_t marks[MARKS_MAX];
    size_t n_stack, n_marks, n_memo;
    sp_error *error;
} machine;

static sp_status refuse(const machine *m, const char *why)
{
    if (m->arena->no_memory) return sp_fail(m->error, SP_NO_MEMORY, "%s: no memory for its values", m->file);
    return sp_fail(m->error, SP_DATA, "%s: byte %zu of data.pkl: %s", m->file, (size_t)(m->opcode - m->begin),
                   why);
}

static sp_status out_of_memory(const machine *m)
{
    return refuse(m, "the pickle needs more memory than is allowed");
}

/* --- the stack --- */

static sp_status push(machine *m, sp_value *value)
{
    if (!value) return out_of_memory(m);
    if (m->n_stack == STACK_MAX) return refuse(m, "more values at once than are accepted");
    m->stack[m->n_stack++] = value;
    return SP_OK;
}

static sp_status push_new(machine *m, sp_value content)
{
    sp_value *value = sp_arena_alloc(m->arena, 1, sizeof *value);
    if (value) *value = content;
    return push(m, value);
}

/* Values above the last mark, or all where there is none. */
static size_t above_mark(const machine *m)
{
    return m->n_stack - (m->n_marks > 0 ? m->marks[m->n_marks - 1] : 0);
}

/* The n values on top; NULL where there are fewer. They stay in place until the next push. */
static sp_value **pop(machine *m, size_t n)
{
    if (above_mark(m) < n) return NULL;
    m->n_stack -= n;
    return m->stack + m->n_stack;
}

static sp_status too_few(const machine *m)
{
    return refuse(m, "the pickle takes more values than there are");
}

/* Everything above the last mark, which goes too. */
static sp_status pop_mark(machine *m, sp_value ***items, size_t *n)
{
    if (m->n_marks == 0) return refuse(m, "no mark was set");
    *n = above_mark(m);
    m->n_stack = m->marks[--m->n_marks];
    *items = m->stack + m->n_stack;
    return SP_OK;
}

static sp_status append(machine *m, sp_value *list, sp_value *const *items, size_t n)
{
    if (n > list->capacity - list->n) {
        size_t capacity = 2 * (list->n + n);
        sp_value **grown = sp_arena_alloc(m->arena, capacity, sizeof(sp_value *));
        if (!grown) return out_of_memory(m);
        if (list->n > 0) memcpy(grown, list->items, list->n * sizeof(sp_value *));
        list->items = grown;
        list->capacity = capacity;
    }
    if (n > 0) memcpy(list->items + list->n, items, n * sizeof(sp_value *));
    list->n += n;
    return SP_OK;
}

static sp_status push_sequence(machine *m, sp_value_type type, sp_value *const *items, size_t n)
{
    sp_value *value = sp_arena_alloc(m->arena, 1, sizeof *value);
    if (!value) return out_of_memory(m);
    value->type = type;
    sp_status status = append(m, value, items, n);
    return status ? status : push(m, value);
}

/* --- operands --- */

static const uint8_t *take(machine *m, size_t n)
{
    if ((size_t)(m->end - m->at) < n) return NULL;
    m->at += n;
    return m->at - n;
}

static uint64_t little(const uint8_t *bytes, size_t n)
{
    uint64_t value = 0;
    for (size_t i = 0; i < n; i++) value |= (uint64_t)bytes[i] << 8 * i;
    return value;
}

static sp_status cut_short(const machine *m)
{
    return refuse(m, "the pickle is cut short");
}

/* An operand of n bytes, n <= 8. */
static sp_status take_number(machine *m, size_t n, uint64_t *out)
{
    const uint8_t *bytes = take(m, n);
    if (!bytes) return cut_short(m);
    *out = little(bytes, n);
    return SP_OK;
}

static sp_status push_integer(machine *m, size_t n, bool is_signed)
{
    uint64_t value = 0;
    sp_status status = take_number(m, n, &value);
    if (status) return status;
    if (is_signed && n > 0 && n < 8 && value >> (8 * n - 1)) value |= UINT64_MAX << 8 * n;
    int64_t integer;
    memcpy(&integer, &value, sizeof integer);
    return push_new(m, (sp_value){.type = SP_VALUE_INT, .integer = integer});
}

static sp_status push_long(machine *m)
{
    uint64_t n = 0;
    sp_status status = take_number(m, 1, &n);
    if (status) return status;
    return n <= 8 ? push_integer(m, n, true) : refuse(m, "an integer of more than 64 bits");
}

static sp_status push_float(machine *m)
{
    const uint8_t *bytes = take(m, 8);
    if (!bytes) return cut_short(m);
    uint64_t bits = 0;
    for (size_t i = 0; i < 8; i++) bits = bits << 8 | bytes[i];
    double number;
    memcpy(&number, &bits, sizeof number);
    return push_new(m, (sp_value){.type = SP_VALUE_FLOAT, .number = number});
}

static sp_status push_text(machine *m, size_t length_bytes)
{
    uint64_t size = 0;
    sp_status status = take_number(m, length_bytes, &size);
    if (status) return status;
    if (size > (uint64_t)(m->end - m->at)) return cut_short(m);
    const char *text = (const char *)take(m, size);
    if (!sp_utf8_valid(text, size)) return refuse(m, "a text is not UTF-8");
    return push_new(m, (sp_value){.type = SP_VALUE_TEXT, .text = text, .size = size});
}

/* --- memo --- */

static sp_status put(machine *m, uint64_t index)
{
    if (above_mark(m) == 0) return too_few(m);
    if (index >= MEMO_MAX) return refuse(m, "more remembered values than are accepted");
    m->memo[index] = m->stack[m->n_stack - 1];
    m->n_memo++;
    return SP_OK;
}

static sp_status put_operand(machine *m, size_t n)
{
    uint64_t index = 0;
    sp_status status = take_number(m, n, &index);
    return status ? status : put(m, index);
}

static sp_status get(machine *m, size_t n)
{
    uint64_t index = 0;
    sp_status status = take_number(m, n, &index);
    if (status) return status;
    if (index >= MEMO_MAX || !m->memo[index]) return refuse(m, "a value that was never remembered");
    return push(m, m->memo[index]);
}

/* --- names --- */

static sp_status push_name(machine *m, const char *module, size_t module_size, const char *name,
                           size_t name_size)
{
    int number = sp_torch_name(module, module_size, name, name_size);
    if (number >= 0) return push_new(m, (sp_value){.type = SP_VALUE_NAME, .integer = number});
    return sp_fail(m->error, SP_DATA,
                   "%s: byte %zu of data.pkl: the name %.*s.%.*s is not accepted; only tensors, lists, "
                   "tuples, dictionaries, numbers and texts are read",
                   m->file, (size_t)(m->opcode - m->begin), (int)(module_size < 60 ? module_size : 60),
                   module, (int)(name_size < 60 ? name_size : 60), name);
}

/* GLOBAL: two lines of text. */
static sp_status push_global(machine *m)
{
    const char *lines[2];
    size_t sizes[2];
    for (int i = 0; i < 2; i++) {
        const uint8_t *line = m->at, *newline = memchr(line, '\n', (size_t)(m->end - line));
        if (!newline) return cut_short(m);
        lines[i] = (const char *)line;
        sizes[i] = (size_t)(newline - line);
        m->at = newline + 1;
    }
    return push_name(m, lines[0], sizes[0], lines[1], sizes[1]);
}

static sp_status push_stack_global(machine *m)
{
    sp_value **pair = pop(m, 2);
    if (!pair || pair[0]->type != SP_VALUE_TEXT || pair[1]->type != SP_VALUE_TEXT)
        return refuse(m, "a name needs two texts");
    return push_name(m, pair[0]->text, pair[0]->size, pair[1]->text, pair[1]->size);
}

/* BINPERSID: a storage. */
static sp_status push_storage(machine *m)
{
    sp_value **top = pop(m, 1), made;
    if (!top) return too_few(m);
    const char *why = sp_torch_storage(top[0], m->arena, &made);
    return why ? refuse(m, why) : push_new(m, made);
}

/* REDUCE: what the named function would have made. */
static sp_status reduce(machine *m)
{
    sp_value **top = pop(m, 2), made;
    if (!top || top[0]->type != SP_VALUE_NAME || top[1]->type != SP_VALUE_TUPLE)
        return refuse(m, "a call of something that is no accepted name");
    const char *why = sp_torch_call((int)top[0]->integer, top[1], m->arena, &made);
    return why ? refuse(m, why) : push_new(m, made);
}

/* BUILD: attributes; on a dictionary they are dropped, elsewhere refused. */
static sp_status build(machine *m)
{
    sp_value **top = pop(m, 2);
    if (!top || top[0]->type != SP_VALUE_DICT || top[1]->type != SP_VALUE_DICT)
        return refuse(m, "attributes of something that is no dictionary");
    return push(m, top[0]);
}

/* --- filling containers --- */

static sp_status extend(machine *m, sp_value *const *items, size_t n, sp_value_type type)
{
    static const char *const why[] = {"items for something that is no list",
                                      "pairs for something that is no dictionary"};
    sp_value *owner = above_mark(m) > 0 ? m->stack[m->n_stack - 1] : NULL;
    if (!owner || owner->type != type || (type == SP_VALUE_DICT && n % 2))
        return refuse(m, why[type == SP_VALUE_DICT]);
    return append(m, owner, items, n);
}

static sp_status extend_one(machine *m, size_t n, sp_value_type type)
{
    sp_value **items = pop(m, n);
    return items ? extend(m, items, n, type) : too_few(m);
}

static sp_status extend_marked(machine *m, sp_value_type type)
{
    sp_value **items = NULL;
    size_t n = 0;
    sp_status status = pop_mark(m, &items, &n);
    return status ? status : extend(m, items, n, type);
}

static sp_status push_tuple(machine *m, size_t n)
{
    sp_value **items = pop(m, n);
    return items ? push_sequence(m, SP_VALUE_TUPLE, items, n) : too_few(m);
}

static sp_status push_marked_tuple(machine *m)
{
    sp_value **items = NULL;
    size_t n = 0;
    sp_status status = pop_mark(m, &items, &n);
    return status ? status : push_sequence(m, SP_VALUE_TUPLE, items, n);
}

static sp_status set_mark(machine *m)
{
    if (m->n_marks == MARKS_MAX) return refuse(m, "more marks at once than are accepted");
    m->marks[m->n_marks++] = m->n_stack;
    return SP_OK;
}

static sp_status set_protocol(machine *m)
{
    uint64_t version = 0;
    sp_status status = take_number(m, 1, &version);
    if (status) return status;
    return version >= 2 && version <= 5 ? SP_OK : refuse(m, "a protocol other than 2 to 5");
}

static sp_status skip(machine *m, size_t n)
{
    return take(m, n) ? SP_OK : cut_short(m);
}

/* --- running --- */

/* Every accepted opcode but STOP. */
static sp_status run_opcode(machine *m, uint8_t opcode)
{
    switch (opcode) {
    case 0x80:
        return set_protocol(m);
    case 0x95: /* FRAME: a length that helps reading ahead */
        return skip(m, 8);
    case '(':
        return set_mark(m);
    case 'N':
        return push_new(m, (sp_value){.type = SP_VALUE_NONE});
    case 0x88:
    case 0x89:
        return push_new(m, (sp_value){.type = SP_VALUE_BOOL, .integer = opcode == 0x88});
    case 'K':
        return push_integer(m, 1, false);
    case 'M':
        return push_integer(m, 2, false);
    case 'J':
        return push_integer(m, 4, true);
    case 0x8a:
        return push_long(m);
    case 'G':
        return push_float(m);
    case 'X':
        return push_text(m, 4);
    case 0x8c:
        return push_text(m, 1);
    case ']':
        return push_new(m, (sp_value){.type = SP_VALUE_LIST});
    case '}':
        return push_new(m, (sp_value){.type = SP_VALUE_DICT});
    case ')':
        return push_tuple(m, 0);
    case 0x85:
    case 0x86:
    case 0x87:
        return push_tuple(m, (size_t)opcode - 0x84);
    case 't':
        return push_marked_tuple(m);
    case 'a':
        return extend_one(m, 1, SP_VALUE_LIST);
    case 'e':
        return extend_marked(m, SP_VALUE_LIST);
    case 's':
        return extend_one(m, 2, SP_VALUE_DICT);
    case 'u':
        return extend_marked(m, SP_VALUE_DICT);
    case 'q':
        return put_operand(m, 1);
    case 'r':
        return put_operand(m, 4);
    case 0x94:
        return put(m, m->n_memo);
    case 'h':
        return get(m, 1);
    case 'j':
        return get(m, 4);
    case 'c':
        return push_global(m);
    case 0x93:
        return push_stack_global(m);
    case 'Q':
        return push_storage(m);
    case 'R':
        return reduce(m);
    case 'b':
        return build(m);
    default:
        return sp_fail(m->error, SP_DATA, "%s: byte %zu of data.pkl: the opcode 0x%02x is not accepted",
                       m->file, (size_t)(m->opcode - m->begin), opcode);
    }
}

static sp_status run(machine *m, sp_value **out)
{
    while (m->at < m->end) {
        m->opcode = m->at++;
        if (*m->opcode == '.') {
            if (m->n_stack != 1 || m->n_marks != 0)
                return refuse(m, "the pickle ends with other than one value");
            *out = m->stack[0];
            return SP_OK;
        }
        sp_status status = run_opcode(m, *m->opcode);
        if (status) return status;
    }
    m->opcode = m->end;
    return cut_short(m);
}

sp_status sp_pickle_read(const char *file, const void *bytes, size_t size, sp_arena *arena, sp_value **out,
                         sp_error *error)
{
    if (size > SP_PICKLE_MAX_BYTES)
        return sp_fail(error, SP_DATA, "%s: data.pkl has %zu bytes; at most %zu are read", file, size,
                       SP_PICKLE_MAX_BYTES);
    machine m = {.file = file, .begin = bytes, .at = bytes, .arena = arena, .error = error};
    m.end = m.begin + size;
    m.stack = sp_alloc(STACK_MAX, sizeof *m.stack);
    m.memo = sp_alloc_zero(MEMO_MAX, sizeof *m.memo);
    sp_status status =
        m.stack && m.memo ? run(&m, out) : sp_fail(error, SP_NO_MEMORY, "no memory for a pickle");
    sp_free(m.stack);
    sp_free(m.memo);
    return status;
}
