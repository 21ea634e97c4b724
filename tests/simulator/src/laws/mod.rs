//! What others do, restated from their sources with the constants they ship: for comparison, not for use.
