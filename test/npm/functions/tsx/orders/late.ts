export const late: string = 'imported'
