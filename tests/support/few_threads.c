/* Preloaded, refuses threads as a system does that has none left: the first THREADS_ALLOWED are started, of the others
   THREADS_REFUSED are refused, and what comes then is started again. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

static int number(const char *name) {
    const char *text = getenv(name);
    return text ? atoi(text) : 0;
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*work)(void *), void *argument) {
    static atomic_int asked;
    int (*create)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    int before = atomic_fetch_add(&asked, 1) - number("THREADS_ALLOWED");
    if (before >= 0 && before < number("THREADS_REFUSED"))
        return EAGAIN;
    *(void **)&create = dlsym(RTLD_NEXT, "pthread_create");
    return create(thread, attributes, work, argument);
}
