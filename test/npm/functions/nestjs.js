'use strict'

// What the TypeScript compiler makes of a Nest application.
require('reflect-metadata')
const { Body, Controller, Get, HttpCode, Injectable, Module, Param, ParseIntPipe, Post, Inject } = require('@nestjs/common')
const { NestFactory } = require('@nestjs/core')
const { ExpressAdapter } = require('@nestjs/platform-express')
const express = require('express')

const decorate = (decorators, target, key) => {
  const descriptor = key === undefined ? undefined : Object.getOwnPropertyDescriptor(target, key)
  for (const decorator of decorators.reverse()) decorator(target, key, descriptor)
}
const parameter = (index, decorator) => (target, key) => decorator(target, key, index)

class Kitchen {
  brew(tea, cups) { return `${cups} × ${tea}` }
}
decorate([Injectable()], Kitchen)

class Orders {
  constructor(kitchen) { this.kitchen = kitchen }
  order(id, body) { return { ok: true, id, served: this.kitchen.brew(body.tea, body.cups) } }
  fail() { throw new Error('unreachable') }
}
decorate([parameter(0, Inject(Kitchen))], Orders)
decorate([Post(':id'), HttpCode(201), parameter(0, Param('id', ParseIntPipe)), parameter(1, Body())], Orders.prototype, 'order')
decorate([Get(':id'), parameter(0, Param('id', ParseIntPipe))], Orders.prototype, 'fail')
decorate([Controller('orders')], Orders)

class App {}
decorate([Module({ controllers: [Orders], providers: [Kitchen] })], App)

const server = express()
const started = NestFactory.create(App, new ExpressAdapter(server), { logger: false }).then((app) => app.init())

module.exports = async (req, res) => {
  await started
  server(req, res)
}
