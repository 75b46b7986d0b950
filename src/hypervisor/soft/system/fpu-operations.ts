/** Operations on the FPU's state as a whole: FXSAVE and the environment forms. */
import { ud } from "./fault.js";

const notYet = () => {
  throw ud();
};

export const fpuOperations = {
  fxsave: notYet,
  fxrstor: notYet,
  fldenv: notYet,
  fnstenv: notYet,
  frstor: notYet,
  fnsave: notYet,
};
