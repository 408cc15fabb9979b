/* A native module with one function, answer() -> 42. The few declarations of
   Node-API that it needs stand here, so that no headers must be installed. */
#include <stdint.h>
#include <stddef.h>
typedef struct napi_env__ *napi_env;
typedef struct napi_value__ *napi_value;
typedef struct napi_callback_info__ *napi_callback_info;
typedef napi_value (*napi_callback)(napi_env, napi_callback_info);
int napi_create_int32(napi_env, int32_t, napi_value *);
int napi_create_function(napi_env, const char *, size_t, napi_callback, void *, napi_value *);
int napi_set_named_property(napi_env, napi_value, const char *, napi_value);

static napi_value answer(napi_env env, napi_callback_info info) {
  napi_value value;
  (void)info;
  return napi_create_int32(env, 42, &value) == 0 ? value : NULL;
}

napi_value napi_register_module_v1(napi_env env, napi_value exports) {
  napi_value function;
  if (napi_create_function(env, "answer", 6, answer, NULL, &function) != 0) return NULL;
  return napi_set_named_property(env, exports, "answer", function) == 0 ? exports : NULL;
}
