'use strict'

// How busy this container is, as the agent hears it.

// Function code may replace the globals later.
const { setTimeout } = globalThis

/**
 * Least time between two reports, in milliseconds. A container that leaves
 * idleness says so at once whatever the time: the agent must never park a
 * function that has begun a request. So under any load there are at most two
 * reports per interval.
 */
const INTERVAL_MS = 50

/** Counts requests in flight and open direct connections, and reports changes. */
class Activity {
  inFlight = 0
  direct = 0
  /** @type {(() => void) | null} called after every change */
  changed = null
  #report
  #reported = { inFlight: 0, direct: 0 }
  #armed = false

  /** @param {(activity: {inFlight: number, direct: number}) => void} report */
  constructor(report) {
    this.#report = report
  }

  /** Tells of a change of either number, which may be negative. */
  change(inFlight, direct) {
    this.inFlight += inFlight
    this.direct += direct
    const { inFlight: r, direct: d } = this.#reported
    if (this.inFlight > 0 && r === 0 || this.direct > 0 && d === 0) this.#send()
    this.#arm()
    this.changed?.()
  }

  // One timer at a time; when it fires, the numbers of that moment are told if
  // they are not those told last.
  #arm() {
    if (this.#armed) return
    this.#armed = true
    setTimeout(() => {
      this.#armed = false
      const { inFlight, direct } = this.#reported
      if (this.inFlight === inFlight && this.direct === direct) return
      this.#send()
      this.#arm()
    }, INTERVAL_MS).unref()
  }

  #send() {
    this.#reported = { inFlight: this.inFlight, direct: this.direct }
    this.#report(this.#reported)
  }
}

module.exports = { Activity, INTERVAL_MS }
