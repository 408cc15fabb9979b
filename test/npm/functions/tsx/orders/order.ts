import { Tea } from '@orders/tea'

export class Order {
  constructor(private readonly cups: number, public tea: Tea = Tea.Assam) {}

  text(): string {
    return `${this.cups} × ${Tea[this.tea]}`
  }
}
