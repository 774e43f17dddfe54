// Colours that mean something, as histoslide/look.py has them: a test holds the two together.

/** Of what somebody has chosen: a wide line on RIM; a label is the other way round. */
export const SELECTED = "#ffffff";
/** Of the wider line under another one. */
export const RIM = "#000000";
/** Of the hatching over cells that could not be read. */
export const UNREADABLE = "#c01c28";
/** Of cells at or above the threshold over the slide; those below are clear. */
export const OPACITY = 0.55;
