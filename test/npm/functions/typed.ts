// TypeScript as it is, by Node's type stripping.
import { z } from 'zod'
import type { Request, Response } from 'express'

type Order = z.infer<typeof Order>
const Order = z.object({ tea: z.string(), cups: z.number().int() })

const text = (order: Order): string => `${order.cups} × ${order.tea}`

export default function (req: Request, res: Response): void {
  const parsed = Order.safeParse(req.body)
  res.status(parsed.success ? 200 : 400).json({ ok: parsed.success, text: parsed.success ? text(parsed.data satisfies Order) : undefined })
}
