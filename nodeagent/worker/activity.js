'use strict'

// How busy this container is, as the agent hears it.

// Function code may replace the globals later.
const { setTimeout } = globalThis
const { max, round } = Math
const now = performance.now.bind(performance)

/**
 * Least time between two reports, in milliseconds. A container that leaves
 * idleness says so at once whatever the time: the agent must never park a
 * function that has begun a request. So under any load there are at most two
 * reports per interval.
 */
const INTERVAL_MS = 50

/** From how long a delay of the event loop on, in milliseconds, it is told by itself. */
const TOLD_DELAY_MS = 10

/**
 * How late the report's timer may be, in milliseconds, before a request that
 * begins makes the report in its stead: then the event loop goes round slowly,
 * but it is not stuck in one call.
 */
const OVERDUE_MS = 1_000

/** Counts requests in flight and open direct connections, and reports changes. */
class Activity {
  inFlight = 0
  direct = 0
  /** What has come: direct connections, and requests on others. Begins anew after 2^31. */
  came = 0
  /** @type {(() => void) | null} called after every change */
  changed = null
  #report
  #reported = { inFlight: 0, direct: 0, came: 0 }
  #armed = false
  #due = 0 // when the timer shall fire
  #overdueSince = 0
  #delay = 0 // the longest since the last report

  /** @param {(activity: {inFlight: number, direct: number, came: number, delayMs?: number}) => void} report */
  constructor(report) {
    this.#report = report
  }

  /** Tells of a change of either number, which may be negative. */
  change(inFlight, direct) {
    this.inFlight += inFlight
    this.direct += direct
    if (direct > 0) this.comes()
    const { inFlight: r, direct: d } = this.#reported
    if (this.inFlight > 0 && r === 0 || this.direct > 0 && d === 0) this.send()
    if (!this.#armed) this.#arm()
    else if (inFlight > 0) this.#sendIfOverdue()
    this.changed?.()
  }

  /** Counts what has come. A change is told of right after that. */
  comes() {
    this.came = (this.came + 1) & 0x7fffffff
  }

  /** Reports now, for example because the agent asked. */
  send() {
    this.#reported = { inFlight: this.inFlight, direct: this.direct, came: this.came }
    const delay = this.#delay
    this.#delay = 0
    this.#report(delay < 1 ? this.#reported : { ...this.#reported, delayMs: round(delay) })
  }

  // One timer at a time; when it fires, the numbers of that moment are told if
  // they are not those told last. How late it fires is the event loop's delay:
  // measured while something happens, and never by waking an idle process.
  #arm() {
    this.#armed = true
    this.#due = this.#overdueSince = now() + INTERVAL_MS
    setTimeout(() => {
      this.#armed = false
      const delay = now() - this.#due
      this.#delay = max(this.#delay, delay)
      const { inFlight, direct, came } = this.#reported
      const same = this.inFlight === inFlight && this.direct === direct && this.came === came
      if (same && delay < TOLD_DELAY_MS) return
      this.send()
      if (!same) this.#arm()
    }, INTERVAL_MS).unref()
  }

  #sendIfOverdue() {
    const time = now()
    if (time - this.#overdueSince < OVERDUE_MS) return
    this.#overdueSince = time
    this.#delay = max(this.#delay, time - this.#due)
    this.send()
  }
}

module.exports = { Activity, INTERVAL_MS, OVERDUE_MS }
