module.exports = 'assam'
