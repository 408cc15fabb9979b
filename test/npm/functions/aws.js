'use strict'

const { createServer } = require('node:http')
const { text } = require('node:stream/consumers')
const { DynamoDBClient } = require('@aws-sdk/client-dynamodb')
const { GetObjectCommand, ListObjectsV2Command, NoSuchKey, PutObjectCommand, S3Client } = require('@aws-sdk/client-s3')
const { SQSClient, SendMessageCommand } = require('@aws-sdk/client-sqs')
const { GetCallerIdentityCommand, STSClient } = require('@aws-sdk/client-sts')
const { DynamoDBDocumentClient, GetCommand } = require('@aws-sdk/lib-dynamodb')
const { getSignedUrl } = require('@aws-sdk/s3-request-presigner')
const { createHash } = require('node:crypto')
const { listen } = require('./loopback.js')

const objects = new Map()
const requests = []
const cloud = createServer(async (req, res) => {
  const body = await text(req)
  const signature = /^AWS4-HMAC-SHA256 Credential=AKID\/\d{8}\/eu-west-1\/(\w+)\/aws4_request, SignedHeaders=[\w;-]+, Signature=[0-9a-f]{64}$/
  const service = signature.exec(req.headers.authorization)?.[1]
  const target = req.headers['x-amz-target']
  const { pathname, searchParams } = new URL(req.url, 'http://cloud')
  requests.push([service, req.method, target ?? pathname])
  const json = (value) => res.writeHead(200, { 'Content-Type': 'application/x-amz-json-1.0' }).end(JSON.stringify(value))
  const xml = (status, value) => res.writeHead(status, { 'Content-Type': 'application/xml' }).end(`<?xml version="1.0"?>${value}`)
  if (service === 'dynamodb') {
    return json({ Item: { id: JSON.parse(body).Key.id, cups: { N: '3' }, tags: { SS: ['hot'] } } })
  }
  if (service === 'sqs') {
    return json({ MessageId: 'm-1', MD5OfMessageBody: createHash('md5').update(JSON.parse(body).MessageBody).digest('hex') })
  }
  if (service === 'sts') {
    return xml(200, '<GetCallerIdentityResponse><GetCallerIdentityResult><Arn>arn:aws:iam::1:user/vik</Arn><Account>1</Account></GetCallerIdentityResult></GetCallerIdentityResponse>')
  }
  if (searchParams.has('list-type')) {
    return xml(200, `<ListBucketResult><KeyCount>${objects.size}</KeyCount>${[...objects].map(([key, { length }]) => `<Contents><Key>${key}</Key><Size>${length}</Size></Contents>`).join('')}</ListBucketResult>`)
  }
  const key = pathname.slice('/shop/'.length)
  if (req.method === 'PUT') {
    objects.set(key, body)
    return res.writeHead(200, { ETag: '"abc"' }).end()
  }
  if (!objects.has(key)) return xml(404, '<Error><Code>NoSuchKey</Code><Message>no such key</Message></Error>')
  res.writeHead(200, { 'Content-Type': 'text/plain' }).end(objects.get(key))
})

module.exports = async (req, res) => {
  const port = await listen(cloud)
  const settings = { endpoint: `http://127.0.0.1:${port}`, region: 'eu-west-1', credentials: { accessKeyId: 'AKID', secretAccessKey: 'SECRET' } }
  const s3 = new S3Client({ ...settings, forcePathStyle: true, requestChecksumCalculation: 'WHEN_REQUIRED', responseChecksumValidation: 'WHEN_REQUIRED' })
  const put = await s3.send(new PutObjectCommand({ Bucket: 'shop', Key: 'tea.txt', Body: 'assam' }))
  const got = await s3.send(new GetObjectCommand({ Bucket: 'shop', Key: 'tea.txt' }))
  const missing = await s3.send(new GetObjectCommand({ Bucket: 'shop', Key: 'none' })).catch((error) => error instanceof NoSuchKey)
  const listed = await s3.send(new ListObjectsV2Command({ Bucket: 'shop' }))
  const url = new URL(await getSignedUrl(s3, new GetObjectCommand({ Bucket: 'shop', Key: 'tea.txt' }), { expiresIn: 60 }))
  const dynamo = DynamoDBDocumentClient.from(new DynamoDBClient(settings))
  const { Item } = await dynamo.send(new GetCommand({ TableName: 'teas', Key: { id: 'a' } }))
  const sent = await new SQSClient(settings).send(new SendMessageCommand({ QueueUrl: `http://127.0.0.1:${port}/1/queue`, MessageBody: 'hello' }))
  const caller = await new STSClient(settings).send(new GetCallerIdentityCommand())
  const answer = {
    ok: true, etag: put.ETag, body: await got.Body.transformToString(), missing, listed: listed.Contents.map(({ Key, Size }) => [Key, Size]),
    signed: url.searchParams.get('X-Amz-Expires'), item: { ...Item, tags: [...Item.tags] }, sent: sent.MessageId, arn: caller.Arn, requests,
  }
  s3.destroy()
  cloud.close()
  cloud.closeAllConnections()
  res.json(answer)
}
