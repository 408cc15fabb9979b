'use strict'

// The worker out of its sources, as its tests run it; start.js runs it in containers.

require('./worker.js').boot()
