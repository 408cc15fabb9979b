import { customAlphabet, nanoid } from 'nanoid'

// One parameter: a fetch handler.
export default (request) => {
  const ids = new Set(Array.from({ length: 1000 }, () => nanoid()))
  return Response.json({
    ok: true, different: ids.size, shape: [...ids].every((id) => /^[\w-]{21}$/.test(id)), custom: /^[ab]{12}$/.test(customAlphabet('ab', 12)()),
    method: request.method,
  })
}
