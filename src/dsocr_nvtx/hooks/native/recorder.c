/* The native recorder: what `dsocr_nvtx.hooks.recorder.PythonRecorder` does at every call, without entering Python.
 *
 * `State` holds what a recorder needs of one thread (`dsocr_nvtx.hooks.threads.ThreadState` extends it), `Log` four
 * numbers of every call of one forward. `Domain` is an NVTX domain whose ranges carry a payload record; `Range` is one
 * range of it, bound once. `Site` stands in for a hooked method: it pushes the record that the thread's state has ready,
 * calls, pops, and logs.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>
#include <time.h>
#include <nvtx3/nvToolsExt.h>
#include <nvtx3/nvToolsExtPayload.h>

static long long now_ns(void) /* the clock of time.perf_counter_ns */
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* ---- Log: the calls of a forward ---- */

typedef struct {
    PyObject_HEAD
    int64_t *numbers;
    Py_ssize_t used, room;
} Log;

static void log_dealloc(Log *self)
{
    PyMem_Free(self->numbers);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

/* Return where so many numbers more may be written, or NULL. */
static int64_t *log_more(Log *self, Py_ssize_t count)
{
    if (self->used + count > self->room) {
        Py_ssize_t room = 2 * self->room + count + 16;
        int64_t *numbers = PyMem_Realloc(self->numbers, room * sizeof *numbers);
        if (!numbers) { PyErr_NoMemory(); return NULL; }
        self->numbers = numbers;
        self->room = room;
    }
    self->used += count;
    return self->numbers + self->used - count;
}

/* log += (numbers, ...) */
static PyObject *log_concat(Log *self, PyObject *values)
{
    if (!PyTuple_Check(values)) return PyErr_Format(PyExc_TypeError, "a log takes a tuple of whole numbers");
    Py_ssize_t count = PyTuple_GET_SIZE(values);
    int64_t *at = log_more(self, count);
    if (!at) return NULL;
    for (Py_ssize_t i = 0; i < count; i++) at[i] = PyLong_AsLongLong(PyTuple_GET_ITEM(values, i));
    if (PyErr_Occurred()) { self->used -= count; return NULL; }
    return Py_NewRef((PyObject *)self);
}

/* log.packed(header): the header's numbers and the log's own, as bytes. */
static PyObject *log_packed(Log *self, PyObject *header)
{
    if (!PyTuple_Check(header)) return PyErr_Format(PyExc_TypeError, "a header is a tuple of whole numbers");
    Py_ssize_t count = PyTuple_GET_SIZE(header);
    PyObject *packed = PyBytes_FromStringAndSize(NULL, (count + self->used) * sizeof(int64_t));
    if (!packed) return NULL;
    int64_t *at = (int64_t *)PyBytes_AS_STRING(packed);
    for (Py_ssize_t i = 0; i < count; i++) at[i] = PyLong_AsLongLong(PyTuple_GET_ITEM(header, i));
    if (PyErr_Occurred()) { Py_DECREF(packed); return NULL; }
    if (self->used) memcpy(at + count, self->numbers, self->used * sizeof(int64_t));
    return packed;
}

static Py_ssize_t log_length(Log *self) { return self->used; }

static PyMethodDef log_methods[] = {
    {"packed", (PyCFunction)log_packed, METH_O, "a header and the log's numbers, as bytes of int64"}, {NULL}};
static PySequenceMethods log_sequence = {
    .sq_length = (lenfunc)log_length, .sq_inplace_concat = (binaryfunc)log_concat};
static PyTypeObject LogType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "dsocr_nvtx.hooks.native._recorder.Log",
    .tp_basicsize = sizeof(Log),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = PyType_GenericNew,
    .tp_dealloc = (destructor)log_dealloc,
    .tp_methods = log_methods,
    .tp_as_sequence = &log_sequence};

/* ---- State: one thread's part of a session ---- */

typedef struct {
    PyObject_HEAD
    PyObject *attributes; /* list: what to push at each site, None where the call must be read first */
    PyObject *log;        /* Log: site, event id, start, end of every call */
    PyObject *words;      /* the records of the forward under way, as a buffer of int64 */
    Py_buffer view;
    long long base, next_id;
} State;

static void state_dealloc(State *self)
{
    if (self->view.obj) PyBuffer_Release(&self->view);
    Py_CLEAR(self->attributes);
    Py_CLEAR(self->log);
    Py_CLEAR(self->words);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *state_words(State *self, void *closure)
{
    return Py_NewRef(self->words ? self->words : Py_None);
}

static int state_set_words(State *self, PyObject *words, void *closure)
{
    Py_buffer view;
    if (!words || PyObject_GetBuffer(words, &view, PyBUF_WRITABLE) < 0) return -1;
    if (self->view.obj) PyBuffer_Release(&self->view);
    self->view = view;
    Py_XSETREF(self->words, Py_NewRef(words));
    return 0;
}

static PyMemberDef state_members[] = {
    {"attributes", T_OBJECT, offsetof(State, attributes), 0, "what to push at each site"},
    {"log", T_OBJECT, offsetof(State, log), 0, "four numbers of every call"},
    {"base", T_LONGLONG, offsetof(State, base), 0, "where in a session's records those of this forward begin"},
    {"next_id", T_LONGLONG, offsetof(State, next_id), 0, "event id of the next range"},
    {NULL}};
static PyGetSetDef state_getset[] = {
    {"words", (getter)state_words, (setter)state_set_words, "the records of the forward under way", NULL}, {NULL}};
static PyTypeObject StateType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "dsocr_nvtx.hooks.native._recorder.State",
    .tp_basicsize = sizeof(State),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .tp_new = PyType_GenericNew,
    .tp_dealloc = (destructor)state_dealloc,
    .tp_members = state_members,
    .tp_getset = state_getset};

/* ---- Domain and Range: NVTX ---- */

typedef struct {
    PyObject_HEAD
    nvtxDomainHandle_t handle;
    uint64_t schema;
    Py_ssize_t fields;
} Domain;

typedef struct {
    PyObject_HEAD
    Domain *domain;
    Py_buffer record;
    nvtxPayloadData_t payload;
    nvtxEventAttributes_t attributes;
} Range;

static void range_dealloc(Range *self)
{
    if (self->record.obj) PyBuffer_Release(&self->record);
    Py_CLEAR(self->domain);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyTypeObject RangeType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "dsocr_nvtx.hooks.native._recorder.Range",
    .tp_basicsize = sizeof(Range),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_dealloc = (destructor)range_dealloc};

/* Domain(name, categories, fields): category n of the list has id n + 1; every field is an int64. */
static int domain_init(Domain *self, PyObject *args, PyObject *kwargs)
{
    const char *name;
    PyObject *categories, *fields;
    if (!PyArg_ParseTuple(args, "sO!O!", &name, &PyList_Type, &categories, &PyList_Type, &fields)) return -1;
    self->handle = nvtxDomainCreateA(name);
    if (!self->handle) return 0; /* no tool listens */
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(categories); i++) {
        const char *category = PyUnicode_AsUTF8(PyList_GET_ITEM(categories, i));
        if (!category) return -1;
        nvtxDomainNameCategoryA(self->handle, (uint32_t)i + 1, category);
    }
    self->fields = PyList_GET_SIZE(fields);
    nvtxPayloadSchemaEntry_t *entries = PyMem_Calloc(self->fields, sizeof *entries);
    if (!entries) { PyErr_NoMemory(); return -1; }
    for (Py_ssize_t i = 0; i < self->fields; i++) {
        entries[i].type = NVTX_PAYLOAD_ENTRY_TYPE_INT64;
        entries[i].offset = i * sizeof(int64_t);
        entries[i].name = PyUnicode_AsUTF8(PyList_GET_ITEM(fields, i));
        if (!entries[i].name) { PyMem_Free(entries); return -1; }
    }
    nvtxPayloadSchemaAttr_t schema = {
        .fieldMask = NVTX_PAYLOAD_SCHEMA_ATTR_FIELD_TYPE | NVTX_PAYLOAD_SCHEMA_ATTR_FIELD_ENTRIES |
                     NVTX_PAYLOAD_SCHEMA_ATTR_FIELD_NUM_ENTRIES | NVTX_PAYLOAD_SCHEMA_ATTR_FIELD_STATIC_SIZE,
        .type = NVTX_PAYLOAD_SCHEMA_TYPE_STATIC,
        .entries = entries,
        .numEntries = self->fields,
        .payloadStaticSize = self->fields * sizeof(int64_t)};
    self->schema = nvtxPayloadSchemaRegister(self->handle, &schema);
    PyMem_Free(entries);
    return 0;
}

/* domain.prepare(message, category, record): a range whose payload is read from `record` at every push. */
static PyObject *domain_prepare(Domain *self, PyObject *args)
{
    const char *message;
    int category;
    PyObject *record;
    if (!PyArg_ParseTuple(args, "siO", &message, &category, &record)) return NULL;
    Range *range = PyObject_New(Range, &RangeType);
    if (!range) return NULL;
    range->domain = (Domain *)Py_NewRef((PyObject *)self);
    memset(&range->record, 0, sizeof range->record);
    memset(&range->attributes, 0, sizeof range->attributes);
    if (PyObject_GetBuffer(record, &range->record, PyBUF_SIMPLE) < 0) { Py_DECREF(range); return NULL; }
    if (range->record.len != (Py_ssize_t)(self->fields * sizeof(int64_t))) {
        Py_DECREF(range);
        return PyErr_Format(PyExc_ValueError, "a record has %zd numbers", self->fields);
    }
    nvtxEventAttributes_t *attributes = &range->attributes;
    attributes->version = NVTX_VERSION;
    attributes->size = NVTX_EVENT_ATTRIB_STRUCT_SIZE;
    attributes->category = (uint32_t)category;
    attributes->messageType = NVTX_MESSAGE_TYPE_REGISTERED;
    attributes->message.registered = nvtxDomainRegisterStringA(self->handle, message);
    range->payload = (nvtxPayloadData_t){self->schema, range->record.len, range->record.buf};
    attributes->payload.ullValue = (uint64_t)(uintptr_t)&range->payload; /* NVTX's macro for it: no C in some releases */
    attributes->payloadType = NVTX_PAYLOAD_TYPE_EXT;
    attributes->reserved0 = 1; /* one payload */
    return (PyObject *)range;
}

static PyObject *domain_push(Domain *self, PyObject *range)
{
    if (!PyObject_TypeCheck(range, &RangeType)) return PyErr_Format(PyExc_TypeError, "push takes what prepare returns");
    nvtxDomainRangePushEx(self->handle, &((Range *)range)->attributes);
    Py_RETURN_NONE;
}

static PyObject *domain_pop(Domain *self, PyObject *nothing)
{
    nvtxDomainRangePop(self->handle);
    Py_RETURN_NONE;
}

static PyObject *domain_mark(Domain *self, PyObject *text) /* in the default domain, which keeps no text */
{
    const char *said = PyUnicode_AsUTF8(text);
    if (!said) return NULL;
    nvtxMarkA(said);
    Py_RETURN_NONE;
}

static PyObject *domain_active(Domain *self, void *closure) { return PyBool_FromLong(self->handle != NULL); }

static PyMethodDef domain_methods[] = {
    {"prepare", (PyCFunction)domain_prepare, METH_VARARGS, "bind a range to its message, category and record"},
    {"push", (PyCFunction)domain_push, METH_O, "open a range on the calling thread"},
    {"pop", (PyCFunction)domain_pop, METH_NOARGS, "close the innermost range of the calling thread"},
    {"mark", (PyCFunction)domain_mark, METH_O, "say a text at this instant"},
    {NULL}};
static PyGetSetDef domain_getset[] = {
    {"active", (getter)domain_active, NULL, "whether a tool listens", NULL}, {NULL}};
static PyTypeObject DomainType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "dsocr_nvtx.hooks.native._recorder.Domain",
    .tp_basicsize = sizeof(Domain),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)domain_init,
    .tp_methods = domain_methods,
    .tp_getset = domain_getset};

/* ---- Site: what stands in for a hooked method ---- */

static PyObject *state_name; /* "state" */

typedef struct {
    PyObject_HEAD
    vectorcallfunc call;
    PyObject *inner, *threads, *unready, *push, *pop, *fail, *path; /* threads.state is the calling thread's */
    Py_ssize_t number, at;
    State *state; /* that of the thread that called last */
    uint64_t thread;
} Site;

static void site_dealloc(Site *self)
{
    PyObject_GC_UnTrack(self);
    Py_CLEAR(self->inner); Py_CLEAR(self->threads); Py_CLEAR(self->unready);
    Py_CLEAR(self->push); Py_CLEAR(self->pop); Py_CLEAR(self->fail); Py_CLEAR(self->path); Py_CLEAR(self->state);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static int site_traverse(Site *self, visitproc visit, void *arg)
{
    Py_VISIT(self->inner); Py_VISIT(self->threads); Py_VISIT(self->unready);
    Py_VISIT(self->push); Py_VISIT(self->pop); Py_VISIT(self->fail); Py_VISIT(self->path); Py_VISIT(self->state);
    return 0;
}

/* Give the pending exception, if it is an ordinary one, to `fail`; return whether it was. */
static int told(Site *self)
{
    if (!PyErr_ExceptionMatches(PyExc_Exception)) return 0;
    PyObject *type, *error, *trace;
    PyErr_Fetch(&type, &error, &trace);
    PyErr_NormalizeException(&type, &error, &trace);
    PyObject *done = PyObject_CallFunctionObjArgs(self->fail, self->path, error, NULL);
    Py_XDECREF(type); Py_XDECREF(error); Py_XDECREF(trace); Py_XDECREF(done);
    return done != NULL;
}

/* Call `unready(self, args, kwargs)`: the session reads the call first. */
static PyObject *unready(Site *self, PyObject *const *args, size_t flags, PyObject *names)
{
    Py_ssize_t positional = PyVectorcall_NARGS(flags), named = names ? PyTuple_GET_SIZE(names) : 0;
    PyObject *tuple = PyTuple_New(positional), *kwargs = PyDict_New(), *result = NULL;
    if (tuple && kwargs) {
        for (Py_ssize_t i = 0; i < positional; i++) PyTuple_SET_ITEM(tuple, i, Py_NewRef(args[i]));
        for (Py_ssize_t i = 0; i < named; i++)
            if (PyDict_SetItem(kwargs, PyTuple_GET_ITEM(names, i), args[positional + i]) < 0) goto done;
        result = PyObject_CallFunctionObjArgs(self->unready, (PyObject *)self, tuple, kwargs, NULL);
    }
done:
    Py_XDECREF(tuple); Py_XDECREF(kwargs);
    return result;
}

static int logged(Log *log, long long number, long long event_id, long long start, long long end)
{
    int64_t *at = log_more(log, 4);
    if (!at) return -1;
    at[0] = number; at[1] = event_id; at[2] = start; at[3] = end;
    return 0;
}

static int pushed(Site *self, PyObject *range)
{
    if (Py_IS_TYPE(range, &RangeType)) {
        nvtxDomainRangePushEx(((Range *)range)->domain->handle, &((Range *)range)->attributes);
        return 1;
    }
    PyObject *done = PyObject_CallOneArg(self->push, range);
    Py_XDECREF(done);
    return done != NULL;
}

static int popped(Site *self, PyObject *range)
{
    if (Py_IS_TYPE(range, &RangeType)) {
        nvtxDomainRangePop(((Range *)range)->domain->handle);
        return 1;
    }
    PyObject *done = PyObject_CallNoArgs(self->pop);
    Py_XDECREF(done);
    return done != NULL;
}

/* Return the calling thread's state, which the site keeps; NULL after an exception. */
static State *state_of(Site *self)
{
    uint64_t thread = PyThreadState_GetID(PyThreadState_Get()); /* no thread ever has the id of another */
    if (self->state && self->thread == thread) return self->state;
    PyObject *found = PyObject_GetAttr(self->threads, state_name);
    if (!found) return NULL;
    Py_XSETREF(self->state, (State *)found);
    self->thread = thread;
    return self->state;
}

static PyObject *site_call(PyObject *called, PyObject *const *args, size_t flags, PyObject *names)
{
    Site *self = (Site *)called;
    State *state = state_of(self);
    if (!state) return NULL;
    PyObject *range = PyList_GetItem(state->attributes, self->number);
    if (!range) return NULL;
    if (range == Py_None) return unready(self, args, flags, names);
    Py_INCREF(range);
    if (!Py_IS_TYPE(state->log, &LogType)) return PyErr_Format(PyExc_TypeError, "the thread's log is none");
    Log *log = (Log *)Py_NewRef(state->log);
    long long event_id = state->next_id++;
    if (self->push != Py_None) {
        ((long long *)state->view.buf)[self->at - state->base] = event_id;
        if (!pushed(self, range)) {
            Py_DECREF(range); Py_DECREF(log);
            return told(self) ? PyObject_Vectorcall(self->inner, args, flags, names) : NULL;
        }
    }
    long long start = now_ns();
    PyObject *result = PyObject_Vectorcall(self->inner, args, flags, names);
    long long end = now_ns();
    PyObject *type, *error, *trace; /* what the model raised, if it did, must outlive what follows */
    PyErr_Fetch(&type, &error, &trace);
    if (logged(log, self->number, event_id, start, end) < 0) told(self);
    if (self->push != Py_None && !popped(self, range)) told(self);
    Py_DECREF(range); Py_DECREF(log);
    if (PyErr_Occurred()) { /* an interrupt in the emitter's own Python code */
        Py_CLEAR(result);
        Py_XDECREF(type); Py_XDECREF(error); Py_XDECREF(trace);
        return NULL;
    }
    PyErr_Restore(type, error, trace);
    return result;
}

/* Site(inner, threads, number, width, unready, push, pop, fail, path); push is None where nobody hears of ranges. */
static PyObject *site_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *inner, *threads, *unready, *push, *pop, *fail, *path;
    Py_ssize_t number, width;
    if (!PyArg_ParseTuple(args, "OOnnOOOOO", &inner, &threads, &number, &width, &unready, &push, &pop, &fail, &path))
        return NULL;
    Site *self = (Site *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    self->call = site_call;
    self->number = number;
    self->at = number * width;
    self->inner = Py_NewRef(inner); self->threads = Py_NewRef(threads); self->unready = Py_NewRef(unready);
    self->push = Py_NewRef(push); self->pop = Py_NewRef(pop); self->fail = Py_NewRef(fail); self->path = Py_NewRef(path);
    return (PyObject *)self;
}

/* What a function that calls a site does when it is called, without its frame: its first cell holds the site. */
static PyObject *function_call(PyObject *function, PyObject *const *args, size_t flags, PyObject *names)
{
    return site_call(PyCell_GET(PyTuple_GET_ITEM(PyFunction_GET_CLOSURE(function), 0)), args, flags, names);
}

/* site.shortens(function): let calls of a function whose whole work is to call the site come here at once. */
static PyObject *site_shortens(Site *self, PyObject *function)
{
    PyObject *cells = PyFunction_Check(function) ? PyFunction_GET_CLOSURE(function) : NULL;
    if (!cells || PyTuple_GET_SIZE(cells) != 1 || PyCell_GET(PyTuple_GET_ITEM(cells, 0)) != (PyObject *)self)
        return PyErr_Format(PyExc_TypeError, "no function that holds the site and nothing else");
#if PY_VERSION_HEX >= 0x030C0000
    PyFunction_SetVectorcall((PyFunctionObject *)function, function_call);
#else
    ((PyFunctionObject *)function)->vectorcall = function_call;
#endif
    Py_RETURN_NONE;
}

static PyMethodDef site_methods[] = {
    {"shortens", (PyCFunction)site_shortens, METH_O, "take the calls of a function that calls this"}, {NULL}};
static PyTypeObject SiteType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "dsocr_nvtx.hooks.native._recorder.Site",
    .tp_basicsize = sizeof(Site),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_HAVE_GC,
    .tp_new = site_new,
    .tp_dealloc = (destructor)site_dealloc,
    .tp_traverse = (traverseproc)site_traverse,
    .tp_call = PyVectorcall_Call,
    .tp_methods = site_methods,
    .tp_vectorcall_offset = offsetof(Site, call)};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "dsocr_nvtx.hooks.native._recorder", "The recorder without Python.", -1, NULL};

PyMODINIT_FUNC PyInit__recorder(void)
{
    PyObject *made = PyModule_Create(&module);
    state_name = PyUnicode_InternFromString("state");
    if (!made || !state_name || PyModule_AddType(made, &StateType) < 0 || PyModule_AddType(made, &LogType) < 0 ||
        PyModule_AddType(made, &DomainType) < 0 || PyModule_AddType(made, &SiteType) < 0 || PyType_Ready(&RangeType) < 0) {
        Py_XDECREF(made);
        return NULL;
    }
    return made;
}
