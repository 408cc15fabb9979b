export default { fetch: async (request) => new Response(`Hello ${new URL(request.url).searchParams.get('name')} ${await request.text()}`) }
