// Modules named by their path below this folder make the build the same, byte for byte, wherever the clone stands.
module.exports = {
  optimization: { moduleIds: 'named' }
};
