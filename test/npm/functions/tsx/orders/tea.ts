export enum Tea { Assam = 1, Oolong }
