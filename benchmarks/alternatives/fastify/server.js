// The endpoint in Node: Fastify with JSON schemas, the Pool of pg, and one UPDATE from
// unnest. The cluster module runs one process for each worker.

'use strict'

const cluster = require('node:cluster')
const { createHash } = require('node:crypto')
const Fastify = require('fastify')
const { Pool } = require('pg')

const SELECT_ORGANIZATION = `
SELECT organization_id
  FROM api_keys
 WHERE key_hash = $1
   AND revoked_at IS NULL
   AND (expires_at IS NULL OR expires_at > now())
`

const UPDATE_METADATA = `
   UPDATE devices
      SET device_metadata = sent.metadata, updated_at = now()
     FROM unnest($2::text[], $3::jsonb[]) AS sent (identifier, metadata)
    WHERE devices.organization_id = $1
      AND devices.identifier = sent.identifier
RETURNING devices.identifier, devices.id
`

const schema = {
  body: {
    type: 'object',
    required: ['devices'],
    properties: {
      devices: {
        type: 'object',
        minProperties: 1,
        maxProperties: 1000,
        additionalProperties: { type: 'object' }
      }
    }
  },
  response: {
    200: {
      type: 'object',
      properties: {
        success: { type: 'boolean' },
        updated: { type: 'integer' },
        notFound: { type: 'integer' },
        results: {
          type: 'array',
          items: {
            type: 'object',
            properties: {
              identifier: { type: 'string' },
              deviceId: { type: 'string' },
              status: { type: 'string' }
            }
          }
        }
      }
    }
  }
}

async function serve () {
  const pool = new Pool({
    connectionString: process.env.DATABASE_URL,
    max: Number(process.env.CONNECTIONS)
  })
  const app = Fastify({ bodyLimit: 10 * 1024 * 1024 })
  app.decorateRequest('organizationId', null)

  app.addHook('onRequest', async (request, reply) => {
    const key = request.headers['x-api-key'] ?? ''
    const digest = createHash('sha256').update(key).digest()
    const { rows } = await pool.query(SELECT_ORGANIZATION, [digest])
    if (rows.length === 0) {
      return reply.code(401).send({ error: 'Invalid or missing API key' })
    }
    request.organizationId = rows[0].organization_id
  })

  app.setErrorHandler((error, request, reply) => {
    const status = error.statusCode ?? 500
    return reply
      .code(status)
      .send({ error: status < 500 ? error.message : 'Internal server error' })
  })

  app.post('/api/ext-v1/device/bulk-metadata', { schema }, async (request) => {
    // A JavaScript object lists keys like "10" first, regardless of the order in the body.
    const sent = new Map()
    for (const [key, metadata] of Object.entries(request.body.devices)) {
      sent.set(key.trim(), JSON.stringify(metadata))
    }
    const { rows } = await pool.query(UPDATE_METADATA, [
      request.organizationId, [...sent.keys()], [...sent.values()]
    ])
    const ids = new Map(rows.map((row) => [row.identifier, row.id]))
    return {
      success: true,
      updated: ids.size,
      notFound: sent.size - ids.size,
      results: Array.from(sent.keys(), (identifier) => ({
        identifier,
        deviceId: ids.get(identifier) ?? '',
        status: ids.has(identifier) ? 'updated' : 'not_found'
      }))
    }
  })

  process.on('SIGTERM', async () => {
    await app.close()
    await pool.end()
    process.exit()
  })
  await app.listen({ host: '127.0.0.1', port: Number(process.env.PORT) })
}

if (cluster.isPrimary) {
  for (let i = 0; i < Number(process.env.WORKERS); i++) {
    cluster.fork()
  }
  process.on('SIGTERM', () => {
    for (const worker of Object.values(cluster.workers)) {
      worker.process.kill('SIGTERM')
    }
  })
} else {
  serve()
}
