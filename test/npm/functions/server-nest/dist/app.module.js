"use strict";
var __decorate = (this && this.__decorate) || function (decorators, target, key, desc) {
    var c = arguments.length, r = c < 3 ? target : desc === null ? desc = Object.getOwnPropertyDescriptor(target, key) : desc, d;
    for (var i = decorators.length - 1; i >= 0; i--) if (d = decorators[i]) r = (c < 3 ? d(r) : c > 3 ? d(target, key, r) : d(target, key)) || r;
    return c > 3 && r && Object.defineProperty(target, key, r), r;
};
var __param = (this && this.__param) || function (paramIndex, decorator) {
    return function (target, key) { decorator(target, key, paramIndex); }
};
Object.defineProperty(exports, "__esModule", { value: true });
exports.AppModule = void 0;
require("reflect-metadata");
const common_1 = require("@nestjs/common");
class Teas {
    find(name) {
        if (name === "coffee") throw new common_1.NotFoundException(`no ${name}`);
        return { name };
    }
}
class TeasController {
    constructor(teas) {
        this.teas = teas;
    }
    find(name) {
        return this.teas.find(name);
    }
};
__decorate([(0, common_1.Get)(":name"), __param(0, (0, common_1.Param)("name"))], TeasController.prototype, "find", null);
TeasController = __decorate([(0, common_1.Controller)("teas"), __param(0, (0, common_1.Inject)(Teas))], TeasController);
let AppModule = class AppModule {
};
exports.AppModule = AppModule;
exports.AppModule = AppModule = __decorate([(0, common_1.Module)({ controllers: [TeasController], providers: [Teas] })], AppModule);
